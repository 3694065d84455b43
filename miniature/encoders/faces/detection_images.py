"""Composed images for training the detector: portraits, pairs, crowds, and images without a face."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from miniature.world.colors import SKIN
from miniature.world.drawing import IMAGE_SIZE, draw_empty
from miniature.world.scenes import random_scene
from miniature.world.surroundings import BACKGROUND_COLORS

from .degradation import degrade
from .face_images import FaceImages
from .hard_negatives import put_object

KINDS = {"portrait": 0.4, "pair": 0.2, "crowd": 0.25, "no face": 0.15}
"""Kinds of images and their shares; references and generated images are portraits."""
MIRRORED = [1, 0, 2, 4, 3]
"""Order of the landmarks in a mirrored image."""
WALLS = 48


@dataclass
class DetectionImage:
    """An image and the faces in it."""

    pixels: np.ndarray
    """uint8 (side, side, 3) RGB."""
    boxes: list[np.ndarray] = field(default_factory=list)
    """(4,) in pixels, one for each face."""
    landmarks: list[np.ndarray] = field(default_factory=list)
    """(5, 2) in pixels, one for each face."""
    clear: list[bool] = field(default_factory=list)
    """For each face, whether it must be found; one that is cut off or half hidden may be found or not."""


class Composer:
    """Composes detection images of portraits."""

    def __init__(self, portraits: FaceImages) -> None:
        self.portraits = portraits
        rng = np.random.default_rng(3)  # the shipped detector was trained on these walls
        self.walls = [draw_empty(random_scene(rng)) for _ in range(WALLS)]

    def compose(self, side: int, rng: np.random.Generator) -> DetectionImage:
        """An image of side × side pixels with a random number of faces."""
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        image = DetectionImage(self._backdrop(side, rng))
        if kind == "portrait":
            zoom = side / IMAGE_SIZE * (1.0 if rng.random() < 0.6 else rng.uniform(0.8, 1.25))
            shift = rng.normal(0.0, 0.04 * side, 2) if zoom != side / IMAGE_SIZE else np.zeros(2)
            angle = rng.normal(0.0, 0.25) if rng.random() < 0.3 else 0.0
            self._paste(image, rng, np.full(2, side / 2) + shift, zoom, angle, black=rng.random() < 0.15)
        elif kind == "pair":
            self._pair(image, rng)
        elif kind == "crowd":
            for _ in range(int(rng.integers(1, 4))):
                zoom = side / IMAGE_SIZE * np.exp(rng.uniform(np.log(0.22), np.log(0.9)))
                self._paste(image, rng, rng.uniform(0.15, 0.85, 2) * side, zoom, rng.normal(0.0, 0.12))
        elif rng.random() < 0.4:
            self._faceless(image, rng)
        if rng.random() < 0.5:
            gain = rng.normal(1.0, 0.06, 3)
            image.pixels = np.clip(image.pixels * gain + rng.normal(0.0, 6.0), 0, 255).astype(np.uint8)
        return image

    def _portrait(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A degraded portrait, mirrored every other time: pixels (128, 128, 3), landmarks (5, 2), box (4,)."""
        row, column = int(rng.integers(len(self.portraits.people))), int(rng.integers(self.portraits.per_person))
        image = degrade(self.portraits.image(row, column), rng, color=0.05)
        landmarks, box = self.portraits.landmarks[row, column], self.portraits.boxes[row, column]
        if rng.random() < 0.5:
            return image, landmarks, box
        landmarks = landmarks[MIRRORED] * (-1, 1) + (IMAGE_SIZE, 0)
        return (
            np.ascontiguousarray(image[:, ::-1]),
            landmarks,
            np.array([IMAGE_SIZE - box[2], box[1], IMAGE_SIZE - box[0], box[3]]),
        )

    def _paste(
        self,
        image: DetectionImage,
        rng: np.random.Generator,
        center: np.ndarray,
        zoom: float,
        angle: float,
        black: bool = False,
    ) -> None:
        """Put a portrait into the image unless it would hide a face that is there. black: everything around it is."""
        portrait, landmarks, box = self._portrait(rng)
        c, s = zoom * np.cos(angle), zoom * np.sin(angle)
        matrix = np.array([[c, -s], [s, c]])
        offset = center - matrix @ np.full(2, IMAGE_SIZE / 2)
        corners = box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) @ matrix.T + offset
        place = np.concatenate([corners.min(0), corners.max(0)])
        side = image.pixels.shape[0]
        frame = np.concatenate([center - 0.5 * IMAGE_SIZE * zoom, center + 0.5 * IMAGE_SIZE * zoom])
        if any(_share(other, frame) > 0.05 for other in image.boxes):
            return
        if black:
            image.pixels[:] = 0
        transform = np.concatenate([matrix, offset[:, None]], axis=1)
        cv2.warpAffine(portrait, transform, (side, side), image.pixels, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
        visible = _share(place, np.array([0, 0, side, side]))
        if visible > 0.05:
            image.boxes.append(place)
            image.landmarks.append(landmarks @ matrix.T + offset)
            image.clear.append(visible > 0.8)

    def _pair(self, image: DetectionImage, rng: np.random.Generator) -> None:
        """Two portraits edge to edge, with black below, as InsightFace pads an image to a square; or four tiles."""
        side = image.pixels.shape[0]
        half = side / 2
        upright = rng.random() < 0.3
        if rng.random() < 0.6:
            image.pixels[:] = 0
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            first = (column if upright else row) == 0
            if rng.random() < (0.95 if first else 0.15):
                center = half * np.array([column + 0.5, row + 0.5])
                self._paste(image, rng, center, half / IMAGE_SIZE, 0.0)

    def _backdrop(self, side: int, rng: np.random.Generator) -> np.ndarray:
        """A drawn wall, a flat color, or noise; every other time with shapes or objects on it."""
        chance = rng.random()
        if chance < 0.5:
            pixels = cv2.resize(degrade(self.walls[int(rng.integers(WALLS))], rng), (side, side))
        elif chance < 0.8:
            pixels = np.full((side, side, 3), _color(rng), dtype=np.uint8)
        else:
            cells = int(2 ** rng.integers(2, 8))
            pixels = cv2.resize(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8), (side, side))
        for _ in range(int(rng.integers(1, 9)) if rng.random() < 0.5 else 0):
            center = tuple(int(v) for v in rng.uniform(0, side, 2))
            axes = tuple(int(v) for v in side * np.exp(rng.uniform(np.log(0.02), np.log(0.4), 2)))
            width = -1 if rng.random() < 0.7 else max(1, side // 60)
            if rng.random() < 0.6:
                cv2.ellipse(pixels, center, axes, rng.uniform(0, 180), 0, 360, _color(rng), width, cv2.LINE_AA)
            else:
                cv2.rectangle(pixels, center, (center[0] + axes[0], center[1] + axes[1]), _color(rng), width)
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.4 else 0):
            put_object(pixels, rng)
        return pixels

    def _faceless(self, image: DetectionImage, rng: np.random.Generator) -> None:
        """A head whose eyes, nose and mouth are covered: hair, hat and outline alone are not a face."""
        side = image.pixels.shape[0]
        portrait, landmarks, box = self._portrait(rng)
        skin = portrait[
            np.clip(int(landmarks[2, 1]) - 6, 0, IMAGE_SIZE - 1), np.clip(int(landmarks[2, 0]), 0, IMAGE_SIZE - 1)
        ]
        center = ((box[:2] + box[2:]) / 2).astype(int).tolist()
        axes = (0.46 * (box[2:] - box[:2])).astype(int).tolist()
        cv2.ellipse(portrait, center, axes, 0, 0, 360, skin.tolist(), -1, cv2.LINE_AA)
        image.pixels = cv2.resize(portrait, (side, side))


def _color(rng: np.random.Generator) -> tuple[float, ...]:
    """A color of the drawn walls or skins, or any color."""
    chance = rng.integers(3)
    if chance == 0:
        return tuple(float(c) for c in SKIN[int(rng.integers(len(SKIN)))])
    if chance == 1:
        return tuple(float(c) for c in list(BACKGROUND_COLORS.values())[int(rng.integers(len(BACKGROUND_COLORS)))])
    return tuple(float(c) for c in rng.uniform(0, 255, 3))


def _share(inner: np.ndarray, outer: np.ndarray) -> float:
    """Share of the box `inner` that lies inside `outer`, 0 to 1."""
    size = np.minimum(inner[2:], outer[2:]) - np.maximum(inner[:2], outer[:2])
    return float(np.prod(np.clip(size, 0, None)) / max(1e-6, np.prod(inner[2:] - inner[:2])))
