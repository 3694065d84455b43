"""Things that look a little like faces and are none: text, stripes, animals, flowers, cups, clocks; drawn by OpenCV.

A detector that has only seen walls beside people takes two dark spots above a third for a face.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Color = tuple[int, ...]
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,!?")


def put_object(pixels: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one object of random kind, size, place and colors into an image uint8 (side, side, 3)."""
    side = pixels.shape[0]
    size = side * float(np.exp(rng.uniform(np.log(0.15), np.log(0.9))))
    center = rng.uniform(0.1, 0.9, 2) * side
    OBJECTS[int(rng.integers(len(OBJECTS)))](pixels, rng, center, size)


def _color(rng: np.random.Generator) -> Color:
    return tuple(int(value) for value in rng.integers(0, 256, 3))


def _point(center: np.ndarray, size: float, x: float, y: float) -> tuple[int, int]:
    return int(center[0] + x * size), int(center[1] + y * size)


def _disc(pixels: np.ndarray, center: tuple[int, int], rx: float, ry: float, color: Color, width: int = -1) -> None:
    cv2.ellipse(pixels, center, (max(1, int(rx)), max(1, int(ry))), 0, 0, 360, color, width, cv2.LINE_AA)


def _text(pixels: np.ndarray, rng: np.random.Generator, center: np.ndarray, size: float) -> None:
    """Some lines of letters."""
    color, scale = _color(rng), size / 160
    for line in range(int(rng.integers(1, 5))):
        word = "".join(rng.choice(LETTERS, int(rng.integers(3, 14))))
        place = _point(center, size, -0.5, 0.2 * line - 0.3)
        thickness = max(1, int(2 * scale))
        cv2.putText(pixels, word, place, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)


def _stripes(pixels: np.ndarray, rng: np.random.Generator, center: np.ndarray, size: float) -> None:
    """Parallel stripes at any angle, over the whole image or a part of it."""
    angle, step, color = rng.uniform(0, np.pi), max(3.0, size * rng.uniform(0.04, 0.2)), _color(rng)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    for number in range(-5, 6):
        middle = center + number * step * across
        start, end = (tuple(int(v) for v in middle + sign * size * along) for sign in (-1, 1))
        cv2.line(pixels, start, end, color, max(1, int(step * 0.4)), cv2.LINE_AA)


def _animal(pixels: np.ndarray, rng: np.random.Generator, center: np.ndarray, size: float) -> None:
    """A cat's or bear's head: fur, ears, eyes without a white, a snout."""
    fur, dark = _color(rng), _color(rng)
    pointed = rng.random() < 0.5
    for side in (-1, 1):
        ear = _point(center, size, side * 0.3, -0.36)
        if pointed:
            corners = [_point(center, size, side * x, y) for x, y in ((0.1, -0.3), (0.42, -0.2), (0.38, -0.6))]
            cv2.fillPoly(pixels, [np.array(corners)], fur, cv2.LINE_AA)
        else:
            _disc(pixels, ear, 0.14 * size, 0.14 * size, fur)
    _disc(pixels, _point(center, size, 0, 0), 0.45 * size, 0.4 * size, fur)
    for side in (-1, 1):
        _disc(pixels, _point(center, size, side * 0.18, -0.08), 0.06 * size, 0.08 * size, dark)
    _disc(pixels, _point(center, size, 0, 0.12), 0.16 * size, 0.11 * size, _color(rng))
    _disc(pixels, _point(center, size, 0, 0.07), 0.05 * size, 0.04 * size, dark)


def _flower(pixels: np.ndarray, rng: np.random.Generator, center: np.ndarray, size: float) -> None:
    """Petals around a middle."""
    petal, count = _color(rng), int(rng.integers(5, 10))
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False):
        place = _point(center, size, 0.28 * np.cos(angle), 0.28 * np.sin(angle))
        _disc(pixels, place, 0.16 * size, 0.16 * size, petal)
    _disc(pixels, _point(center, size, 0, 0), 0.15 * size, 0.15 * size, _color(rng))


def _cup(pixels: np.ndarray, rng: np.random.Generator, center: np.ndarray, size: float) -> None:
    """A cup with a handle and dots."""
    color = _color(rng)
    _disc(pixels, _point(center, size, 0.3, 0), 0.18 * size, 0.18 * size, color, max(1, int(0.06 * size)))
    cv2.rectangle(pixels, _point(center, size, -0.3, -0.35), _point(center, size, 0.3, 0.35), color, -1)
    for x, y in rng.uniform(-0.25, 0.25, (int(rng.integers(0, 5)), 2)):
        _disc(pixels, _point(center, size, x, y), 0.05 * size, 0.05 * size, _color(rng))


def _clock(pixels: np.ndarray, rng: np.random.Generator, center: np.ndarray, size: float) -> None:
    """A dial with two hands, or a power socket's two holes."""
    dark = _color(rng)
    _disc(pixels, _point(center, size, 0, 0), 0.4 * size, 0.4 * size, _color(rng))
    _disc(pixels, _point(center, size, 0, 0), 0.4 * size, 0.4 * size, dark, max(1, int(0.04 * size)))
    if rng.random() < 0.4:
        for side in (-1, 1):
            _disc(pixels, _point(center, size, side * 0.15, 0), 0.06 * size, 0.06 * size, dark)
        return
    for length in (0.2, 0.32):
        angle = rng.uniform(0, 2 * np.pi)
        end = _point(center, size, length * np.cos(angle), length * np.sin(angle))
        cv2.line(pixels, _point(center, size, 0, 0), end, dark, max(1, int(0.04 * size)), cv2.LINE_AA)


OBJECTS: tuple[Callable[[np.ndarray, np.random.Generator, np.ndarray, float], None], ...] = (
    _text,
    _stripes,
    _animal,
    _flower,
    _cup,
    _clock,
)
