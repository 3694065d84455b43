"""Drawing: a person in a scene becomes an SVG, and the SVG an anti-aliased image (resvg)."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from resvg_py import svg_to_bytes

from . import facial_features as features
from .accessories import glasses, hat
from .geometry import HEAD_CENTER, HEAD_SCALE, IMAGE_SIZE, Head, Point, Shape, mix, rgb, surface
from .hair import back_hair, front_hair
from .people import Person, person
from .scenes import Scene, reference_scene

REFERENCES = 3
"""Reference images of a person, unless said otherwise."""
SHIRT_COLORS = {
    "white shirt": (240, 240, 236),
    "black shirt": (44, 44, 50),
    "red shirt": (200, 52, 48),
    "green shirt": (54, 140, 84),
    "blue shirt": (48, 92, 184),
}
BACKGROUND_COLORS = {
    "white": (238, 238, 240),
    "blue": (120, 176, 228),
    "green": (132, 190, 136),
    "yellow": (244, 212, 108),
    "pink": (244, 172, 190),
    "dark": (48, 52, 72),
}


@dataclass(frozen=True)
class Drawing:
    """A drawn image, and where the face in it is."""

    image: np.ndarray
    """uint8 (size, size, 3) RGB."""
    landmarks: np.ndarray
    """float32 (5, 2) in pixels, in InsightFace's order: both eyes, the tip of the nose, both corners of the
    mouth; of two, the left one in the image comes first."""
    box: np.ndarray
    """float32 (4,) in pixels: x1, y1, x2, y2."""


def draw(who: Person, scene: Scene, size: int = IMAGE_SIZE) -> Drawing:
    """Draw one person.

    Args:
        who: The person.
        scene: Everything else in the image.
        size: Side of the square image in pixels, at least 64.

    Raises:
        ValueError: The size is smaller; eyes would vanish in the autoencoder.
    """
    if size < 64:
        raise ValueError(f"a drawn image needs at least 64 pixels a side, found {size}")
    landmarks, box = landmarks_and_box(who, scene, size)
    return Drawing(rasterize(to_svg(who, scene), size), landmarks, box)


def draw_references(index: int, rng: np.random.Generator, count: int = REFERENCES) -> list[np.ndarray]:
    """Draw reference images of the person with this index, each in a random scene: uint8 (128, 128, 3)."""
    return [draw(person(index), reference_scene(rng)).image for _ in range(count)]


def landmarks_and_box(who: Person, scene: Scene, size: int = IMAGE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (5, 2) and box (4,) of the face in `draw(who, scene, size)`, without drawing it."""
    head, shape = Head(scene), Shape.of(who)
    zoom = size / IMAGE_SIZE
    left, right = features.mouth_corners(scene, shape)
    points = [
        surface(-shape.eye_x, shape.eye_y),
        surface(shape.eye_x, shape.eye_y),
        surface(0, shape.nose_y, 7.0),
        left,
        right,
    ]
    landmarks = np.array([head.place(p) for p in points], dtype=np.float32) * zoom
    outline = [(0, -40, 6), (0, shape.chin, 10), (-shape.half_width, 0, 2), (shape.half_width, 0, 2)]
    edge = np.array([head.place(p) for p in outline], dtype=np.float32) * zoom
    box = np.array([edge[:, 0].min(), edge[:, 1].min(), edge[:, 0].max(), edge[:, 1].max()], dtype=np.float32)
    return landmarks, box


def draw_empty(scene: Scene, size: int = IMAGE_SIZE) -> np.ndarray:
    """The scene's background without a person: uint8 (size, size, 3)."""
    return rasterize(_document(_backdrop(scene)), size)


def to_svg(who: Person, scene: Scene) -> str:
    """The drawing as an SVG document of 128 × 128 units."""
    head, shape = Head(scene), Shape.of(who)
    marks = features.skin_marks(head, who, shape) + _shading(head, scene, shape)
    parts = [
        _backdrop(scene),
        back_hair(head, who, shape),
        _shoulders(scene, shape),
        features.ear(head, who, shape, -1),
        features.ear(head, who, shape, 1),
        features.face(head, shape, marks),
        features.nose(head, who, shape),
        features.mouth(head, who, scene, shape),
    ]
    for side in (-1, 1):
        parts.append(features.eye(head, who, scene, shape, side))
        parts.append(features.brow(head, who, scene, shape, side))
    parts.append(front_hair(head, who, shape))
    if scene.glasses:
        parts.append(glasses(head, shape))
    parts.append(hat(head, scene, shape))
    return _document("".join(parts))


def rasterize(svg: str, size: int) -> np.ndarray:
    """Anti-aliased pixels of a 128-unit square SVG: uint8 (size, size, 3)."""
    png = svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _document(body: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {IMAGE_SIZE} {IMAGE_SIZE}">{body}</svg>'


def _backdrop(scene: Scene) -> str:
    """A plain wall with a bright disc on the side that the light comes from."""
    base = BACKGROUND_COLORS[scene.background]
    x = {"": 64, "light from the left": 18, "light from the right": 110}[scene.light]
    glow = rgb(mix(base, (255, 255, 255), 0.16))
    return (
        f'<rect width="{IMAGE_SIZE}" height="{IMAGE_SIZE}" fill="{rgb(base)}"/>'
        f'<circle cx="{x + scene.shift_x:.1f}" cy="56" r="58" fill="{glow}"/>'
    )


def _shoulders(scene: Scene, shape: Shape) -> str:
    """Neck and shirt: they move with the head but do not turn with it."""
    x = HEAD_CENTER[0] + scene.shift_x
    y = HEAD_CENTER[1] + scene.shift_y + shape.chin * HEAD_SCALE * scene.scale
    shirt = SHIRT_COLORS[scene.shirt]
    neck = rgb(mix(shape.skin, (60, 20, 10), 0.24))
    return (
        f'<path d="M {x - 12} {y - 12} L {x - 13} {y + 12} Q {x} {y + 22} {x + 13} {y + 12} L {x + 12} {y - 12} Z" '
        f'fill="{neck}"/>'
        f'<path d="M {x - 60} {y + 50} Q {x - 56} {y + 12} {x - 22} {y + 7} L {x - 13} {y + 3} '
        f'Q {x} {y + 21} {x + 13} {y + 3} L {x + 22} {y + 7} Q {x + 56} {y + 12} {x + 60} {y + 50} Z" '
        f'fill="{rgb(shirt)}" '
        f'stroke="{rgb(mix(shirt, (0, 0, 0), 0.3))}" stroke-width="1"/>'
    )


def _shading(head: Head, scene: Scene, shape: Shape) -> str:
    """Light and shadow on the face in flat shapes: a lit and a dark side, or with even light a darker rim."""
    w, opacity = shape.half_width, 0.5 * scene.shade
    shadow = f'fill="#2c0c14" fill-opacity="{opacity:.3f}"'
    if scene.light == "":
        return "".join(
            _side(head, s * 0.84 * w, s * 60, 0.5 * w * s, f'fill="#401808" fill-opacity="{0.5 * opacity:.3f}"')
            for s in (-1, 1)
        )
    dark = 1 if scene.light == "light from the left" else -1
    lit = f'fill="#fff2d0" fill-opacity="{0.9 * opacity:.3f}"'
    return _side(head, dark * 0.3 * w, dark * 60, 0.12 * w * dark, shadow) + _side(
        head, -dark * 0.62 * w, -dark * 60, -0.5 * w * dark, lit
    )


def _side(head: Head, near: float, far: float, bottom: float, style: str) -> str:
    """The part of the face beyond a curve from the crown (near) to the chin (bottom)."""
    path: list[str | Point] = ["M", surface(near, -46), "Q", surface(1.12 * near, 0), surface(bottom, 50)]
    return head.path([*path, "L", (far, 50, 0), "L", (far, -46, 0), "Z"], style)
