"""The training images, drawn once by several processes and kept in `.npy` files of 50 people each.

The first `TEACHER_PEOPLE` training people get enough images to train a LoRA on; the rest only add variety to what the
base model is trained on. A scene follows from person and image number, so captions need no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from difflora_core.files import replacing

from .drawing import IMAGE_SIZE, draw
from .people import person
from .scenes import TEACHER_IMAGES, training_scene

TEACHER_PEOPLE = 1200
"""With `TEACHER_IMAGES` each; teachers are trained for `personal.teachers.TRAIN_PEOPLE` of them."""
BASE_PEOPLE = 4800
"""Those, and others with `BASE_IMAGES` each."""
BASE_IMAGES = 6
OTHER_PEOPLE = range(TEACHER_PEOPLE, BASE_PEOPLE)
"""Those others, for networks that must not be trained on the first ones."""
BLOCK = 50
"""People in a file."""
RANDOM = 2**30
"""Above the random numbers of `random_images`; so large that a remainder is about equally distributed."""


@dataclass(frozen=True)
class Block:
    """People drawn into one file: uint8 (people, images, 128, 128, 3)."""

    name: str
    """Name of the file without its ending."""
    people: Sequence[int]
    """Person indices."""
    images: int
    """Images of each person."""

    @property
    def shape(self) -> tuple[int, int]:
        """People, and images of each."""
        return len(self.people), self.images


def training_blocks() -> list[Block]:
    """All blocks that may be trained on."""
    blocks = []
    for start in range(0, BASE_PEOPLE, BLOCK):
        images = TEACHER_IMAGES if start < TEACHER_PEOPLE else BASE_IMAGES
        blocks.append(Block(f"train_{start:05d}", range(start, start + BLOCK), images))
    return blocks


def random_images(
    shapes: Sequence[tuple[int, int]], count: int, generator: torch.Generator, more: int = 0
) -> list[tuple[int, int, int, list[int]]]:
    """Choose random images: block, person in the block, image of the person, and random numbers for the caller.

    All blocks are equally likely. These draws never change: shipped weights depend on them.

    Args:
        shapes: People, and images of each, of every block.
        count: How many images.
        generator: On the CPU.
        more: How many numbers from 0 to `RANDOM` − 1 the caller wants of each image.
    """
    chosen, drawn = [], torch.randint(0, RANDOM, (count, 3 + more), generator=generator)
    for block, person_number, image, *others in drawn.tolist():
        people, images = shapes[block % len(shapes)]
        chosen.append((block % len(shapes), person_number % people, image % images, others))
    return chosen


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file that is either absent or whole."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def draw_block(folder: Path, block: Block) -> None:
    """Draw a block unless its file is there; the file appears only when it is complete."""
    path = folder / f"{block.name}.npy"
    if path.exists():
        return
    images = np.empty((len(block.people), block.images, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for row, index in enumerate(block.people):
        who = person(index)
        for column in range(block.images):
            images[row, column] = draw(who, training_scene(index, column)).image
    write_array(path, images)


def draw_blocks(folder: Path, blocks: list[Block], processes: int) -> None:
    """Draw all blocks; interrupted, the next call draws only what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(draw_block, folder, block) for block in blocks]
        for job in tqdm(jobs, desc="images", unit="block"):
            job.result()


def load_block(folder: Path, block: Block) -> np.ndarray:
    """Images of a block, memory-mapped: uint8 (people, images, 128, 128, 3).

    Raises:
        FileNotFoundError: The block has not been drawn.
    """
    path = folder / f"{block.name}.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m miniature build images` first")
    return np.load(path, mmap_mode="r", allow_pickle=False)
