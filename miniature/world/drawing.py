"""Drawing: a person in a scene becomes an SVG, and the SVG an anti-aliased image (resvg)."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from resvg_py import svg_to_bytes

from . import skin
from .accessories import glasses, hat
from .eyes import brow, eye
from .facial_features import mouth, mouth_corners, nose
from .geometry import IMAGE_SIZE, Head, Shape, surface
from .hair import back_hair, front_hair
from .people import Person, person
from .scenes import Scene, reference_scene
from .surroundings import backdrop, shoulders

SOFTNESS = 0.5
"""Standard deviation in pixels, of 128, of the blur over a drawing: a lens is no sharper."""
REFERENCES = 3
"""Reference images of a person, unless said otherwise."""


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
    left, right = mouth_corners(scene, shape)
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


def draw_empty(scene: Scene) -> np.ndarray:
    """The scene's background without a person: uint8 (128, 128, 3)."""
    return rasterize(_document(backdrop(scene)), IMAGE_SIZE)


def to_svg(who: Person, scene: Scene) -> str:
    """The drawing as an SVG document of 128 × 128 units."""
    head, shape = Head(scene), Shape.of(who)
    parts = [
        skin.light(head, scene, shape),
        backdrop(scene),
        back_hair(head, who, shape),
        shoulders(scene, shape),
        skin.ear(head, who, shape, -1),
        skin.ear(head, who, shape, 1),
        skin.face(head, who, shape),
        skin.beard(head, who, shape),
        skin.lit_face(head, scene, shape),
        nose(head, who, shape),
        mouth(head, who, scene, shape),
    ]
    for side in (-1, 1):
        parts.append(eye(head, who, scene, shape, side))
        parts.append(brow(head, who, scene, shape, side))
    parts.append(front_hair(head, who, shape, lit=bool(scene.light)))
    if scene.glasses:
        parts.append(glasses(head, shape))
    parts.append(hat(head, scene, shape))
    return _document("".join(parts))


def rasterize(svg: str, size: int) -> np.ndarray:
    """Anti-aliased, slightly soft pixels of a 128-unit square SVG: uint8 (size, size, 3)."""
    png = svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return np.asarray(image.filter(ImageFilter.GaussianBlur(SOFTNESS * size / IMAGE_SIZE)))


def _document(body: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {IMAGE_SIZE} {IMAGE_SIZE}">{body}</svg>'
