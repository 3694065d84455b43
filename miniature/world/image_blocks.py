"""Draws the miniature's pictures once and keeps them: blocks of people in `.npy` files, made by several processes.

The first `TEACHER_PEOPLE` training people get enough pictures to train a LoRA on; the rest only widen the base model's
idea of what people look like. Scenes follow from (person, picture number), so captions need no file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .drawing import CANVAS, draw
from .people import Scene, person, random_scene

TEACHER_PEOPLE = 1200
BASE_PEOPLE = 4800
TEACHER_PICTURES = 16
BASE_PICTURES = 6
BLOCK = 50


@dataclass(frozen=True)
class Block:
    """People drawn into one file: uint8 (people, pictures, 128, 128, 3)."""

    name: str
    people: Sequence[int]
    pictures: int


def scene_of(index: int, picture: int) -> Scene:
    """The scene of a person's n-th picture."""
    return random_scene(np.random.default_rng([77, index, picture]))


def training_blocks() -> list[Block]:
    """All blocks that may be trained on."""
    blocks = []
    for start in range(0, BASE_PEOPLE, BLOCK):
        pictures = TEACHER_PICTURES if start < TEACHER_PEOPLE else BASE_PICTURES
        blocks.append(Block(f"train_{start:05d}", range(start, start + BLOCK), pictures))
    return blocks


def draw_block(folder: Path, block: Block) -> None:
    """Draw a block unless its file is there; the file appears only when complete."""
    path = folder / f"{block.name}.npy"
    if path.exists():
        return
    pictures = np.empty((len(block.people), block.pictures, CANVAS, CANVAS, 3), dtype=np.uint8)
    for row, index in enumerate(block.people):
        who = person(index)
        for column in range(block.pictures):
            pictures[row, column] = draw(who, scene_of(index, column)).image
    partial = path.with_suffix(f".{os.getpid()}.partial.npy")
    np.save(partial, pictures)
    partial.replace(path)


def draw_blocks(folder: Path, blocks: list[Block], processes: int) -> None:
    """Draw all blocks; interrupted, the next call draws only what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(draw_block, folder, block) for block in blocks]
        for job in tqdm(jobs, desc="pictures", unit="block"):
            job.result()


def load_block(folder: Path, block: Block) -> np.ndarray:
    """Pictures of a block, memory-mapped: uint8 (people, pictures, 128, 128, 3)."""
    path = folder / f"{block.name}.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m miniature build pictures` first")
    return np.load(path, mmap_mode="r", allow_pickle=False)
