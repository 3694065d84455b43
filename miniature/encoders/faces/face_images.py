"""Drawn images with the places of their faces: what all face networks are trained on and measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from miniature.world.drawing import IMAGE_SIZE, draw, landmarks_and_box
from miniature.world.image_blocks import Block, load_block, training_blocks, write_array
from miniature.world.people import TRAITS, person
from miniature.world.scenes import random_scene, training_scene

VISIBLE_FROM = {"freckles": 0.0, "beard": 0.2, "cheek_color": -0.4}
"""Traits that look the same below a value (no freckles, no beard), and that value."""


@dataclass(frozen=True)
class FaceImages:
    """Images of people, equally many of each."""

    people: np.ndarray
    """Indices (people,)."""
    stacks: Sequence[np.ndarray]
    """uint8 (people of the stack, images, 128, 128, 3), in the order of `people`."""
    landmarks: np.ndarray
    """float32 (people, images, 5, 2), in pixels."""
    boxes: np.ndarray
    """float32 (people, images, 4), in pixels."""

    @property
    def per_person(self) -> int:
        """Images per person."""
        return self.landmarks.shape[1]

    def image(self, row: int, column: int) -> np.ndarray:
        """uint8 (128, 128, 3) RGB of the person in `row`."""
        size = self.stacks[0].shape[0]
        return self.stacks[row // size][row % size, column]

    def traits(self) -> np.ndarray:
        """The visible part of the people's traits: float32 (people, 26), each in [-1, 1]."""
        return np.stack([visible_traits(int(index)) for index in self.people])


def visible_traits(index: int) -> np.ndarray:
    """Traits of a person, raised to the value from which a change is visible: float32 (26,)."""
    traits = person(index).traits
    floor = np.array([VISIBLE_FROM.get(name, -1.0) for name in TRAITS])
    return np.maximum(traits, floor).astype(np.float32)


def open_face_images(build: Path, people: range) -> FaceImages:
    """Training people from the drawn blocks (memory-mapped): of each as many images as all have.

    Raises:
        FileNotFoundError: A block has not been drawn.
        ValueError: `people` is not made of whole blocks.
    """
    blocks = [block for block in training_blocks() if block.people[0] in people]
    found = sum(len(block.people) for block in blocks)
    if found != len(people):
        raise ValueError(f"expected whole blocks of drawn training people, found {found} of {len(people)} in {people}")
    images = min(block.images for block in blocks)
    stacks = [load_block(build / "images", block)[:, :images] for block in blocks]
    places = np.concatenate([_places(build / "faces", block)[:, :images] for block in blocks])
    return FaceImages(np.array(people), stacks, places[:, :, :5], places[:, :, 5:].reshape(*places.shape[:2], 4))


def draw_face_images(people: Sequence[int], images: int) -> FaceImages:
    """Draw images of people (as a rule validation people) in scenes that no training image has."""
    stack = np.empty((len(people), images, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    landmarks = np.empty((len(people), images, 5, 2), dtype=np.float32)
    boxes = np.empty((len(people), images, 4), dtype=np.float32)
    for row, index in enumerate(people):
        for column in range(images):
            # Published figures of the recognizers depend on these draws
            drawing = draw(person(index), random_scene(np.random.default_rng([5, index, column])))
            stack[row, column], landmarks[row, column], boxes[row, column] = (
                drawing.image,
                drawing.landmarks,
                drawing.box,
            )
    return FaceImages(np.array(people), [stack], landmarks, boxes)


def _places(folder: Path, block: Block) -> np.ndarray:
    """Landmarks and box corners of a block: float32 (people, images, 7, 2), kept in a file."""
    path = folder / f"places_{block.name}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    places = np.empty((len(block.people), block.images, 7, 2), dtype=np.float32)
    for row, index in enumerate(block.people):
        who = person(index)
        for column in range(block.images):
            landmarks, box = landmarks_and_box(who, training_scene(index, column))
            places[row, column] = np.concatenate([landmarks, box.reshape(2, 2)])
    write_array(path, places)
    return places
