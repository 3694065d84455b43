"""The drawn pictures with the places of their faces: what all face networks are trained on and measured with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from miniature.world.drawing import CANVAS, draw, landmarks_and_box
from miniature.world.image_blocks import Block, load_block, scene_of, training_blocks
from miniature.world.people import TRAITS, person, random_scene

# Traits of which one half of the range looks the same (no freckles, no beard): a target below this says nothing.
VISIBLE_FROM = {"freckles": 0.0, "beard": 0.2, "cheek_color": -0.6}


@dataclass(frozen=True)
class PersonImages:
    """Pictures of people, in stacks of equally many pictures per person.

    people: indices (people,). stacks: uint8 arrays (people of the stack, pictures, 128, 128, 3), in the order of
    `people`. landmarks: float32 (people, pictures, 5, 2), boxes: float32 (people, pictures, 4), both in pixels.
    """

    people: np.ndarray
    stacks: Sequence[np.ndarray]
    landmarks: np.ndarray
    boxes: np.ndarray

    @property
    def pictures(self) -> int:
        """Pictures per person."""
        return self.landmarks.shape[1]

    def picture(self, row: int, column: int) -> np.ndarray:
        """uint8 (128, 128, 3) RGB of the person in `row`."""
        size = self.stacks[0].shape[0]
        return self.stacks[row // size][row % size, column]

    def traits(self) -> np.ndarray:
        """What can be seen of the people's traits: float32 (people, 26), each in [-1, 1]."""
        return np.stack([visible_traits(int(index)) for index in self.people])


def visible_traits(index: int) -> np.ndarray:
    """Traits of a person, raised to the value from which a change can be seen: float32 (26,)."""
    traits = person(index).traits
    floor = np.array([VISIBLE_FROM.get(name, -1.0) for name in TRAITS])
    return np.maximum(traits, floor).astype(np.float32)


def open_album(build: Path, people: range) -> PersonImages:
    """Training people from the rendered blocks (memory-mapped): of everyone as many pictures as all have.

    Raises FileNotFoundError if a block is missing, ValueError if `people` is not made of whole blocks.
    """
    blocks = [block for block in training_blocks() if block.people[0] in people]
    found = sum(len(block.people) for block in blocks)
    if found != len(people):
        raise ValueError(f"expected whole blocks of drawn training people, found {found} of {len(people)} in {people}")
    pictures = min(block.pictures for block in blocks)
    stacks = [load_block(build / "pictures", block)[:, :pictures] for block in blocks]
    places = np.concatenate([_places(build / "faces", block)[:, :pictures] for block in blocks])
    return PersonImages(np.array(people), stacks, places[:, :, :5], places[:, :, 5:].reshape(*places.shape[:2], 4))


def draw_album(people: Sequence[int], pictures: int, seed: int = 5) -> PersonImages:
    """Pictures drawn now, of any people (validation people, as a rule), in scenes that no training picture has."""
    stack = np.empty((len(people), pictures, CANVAS, CANVAS, 3), dtype=np.uint8)
    landmarks = np.empty((len(people), pictures, 5, 2), dtype=np.float32)
    boxes = np.empty((len(people), pictures, 4), dtype=np.float32)
    for row, index in enumerate(people):
        for column in range(pictures):
            picture = draw(person(index), random_scene(np.random.default_rng([seed, index, column])))
            stack[row, column], landmarks[row, column], boxes[row, column] = (
                picture.image,
                picture.landmarks,
                picture.box,
            )
    return PersonImages(np.array(people), [stack], landmarks, boxes)


def _places(folder: Path, block: Block) -> np.ndarray:
    """Landmarks and box corners of a block: float32 (people, pictures, 7, 2), kept beside the other build files."""
    path = folder / f"places_{block.name}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    folder.mkdir(parents=True, exist_ok=True)
    places = np.empty((len(block.people), block.pictures, 7, 2), dtype=np.float32)
    for row, index in enumerate(block.people):
        who = person(index)
        for column in range(block.pictures):
            landmarks, box = landmarks_and_box(who, scene_of(index, column))
            places[row, column] = np.concatenate([landmarks, box.reshape(2, 2)])
    partial = path.with_suffix(f".{os.getpid()}.partial.npy")
    np.save(partial, places)
    partial.replace(path)
    return places
