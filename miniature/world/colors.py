"""Colors of drawn people, and how colors are mixed and written."""

from __future__ import annotations

import colorsys

import numpy as np

from .people import Person

Color = tuple[float, ...]
"""Red, green, blue, from 0 to 255."""

WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)
SKIN: tuple[Color, ...] = (
    (92, 58, 42),
    (132, 86, 60),
    (172, 118, 84),
    (206, 152, 114),
    (234, 188, 152),
    (250, 218, 196),
)
"""From dark to pale, about equal steps of lightness."""
EYES: tuple[Color, ...] = ((104, 56, 20), (176, 122, 34), (52, 150, 70), (44, 118, 220), (150, 170, 186))
"""Brown, hazel, green, blue, gray: saturated, so that a few pixels tell them apart."""


def rgb(color: Color) -> str:
    """SVG color of three values from 0 to 255."""
    return "#" + "".join(f"{int(np.clip(round(c), 0, 255)):02x}" for c in color)


def mix(a: Color, b: Color, amount: float) -> Color:
    """Interpolate two colors: a + amount · (b − a), per channel."""
    return tuple(x + amount * (y - x) for x, y in zip(a, b, strict=True))


def palette(colors: tuple[Color, ...], value: float) -> Color:
    """Piecewise linear color at `value` in [-1, 1]."""
    position = (value + 1.0) / 2.0 * (len(colors) - 1)
    low = min(int(position), len(colors) - 2)
    return mix(colors[low], colors[low + 1], position - low)


def hair_color(who: Person) -> Color:
    """From black to blond, from ash to red."""
    light, red = (who["hair_lightness"] + 1) / 2, (who["hair_redness"] + 1) / 2
    hue = (44.0 - 32.0 * red) / 360.0
    saturation = 0.12 + 0.68 * red * min(1.0, 0.3 + light) + 0.34 * light * (1 - red)
    r, g, b = colorsys.hls_to_rgb(hue, 0.09 + 0.56 * light**1.1 * (1 - 0.3 * red), saturation)
    return (255 * r, 255 * g, 255 * b)


def skin_color(who: Person) -> Color:
    """From dark to pale, from pinkish to golden."""
    base = palette(SKIN, who["skin_lightness"])
    warm = who["skin_warmth"]
    return (base[0], base[1] + 5.0 * warm, base[2] - 12.0 * warm)


def eye_color(who: Person) -> Color:
    """From brown over hazel, green and blue to gray."""
    return palette(EYES, who["eye_color"])
