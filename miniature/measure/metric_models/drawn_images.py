"""What the networks of metrics are trained on: drawn images of people that no other network has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from miniature.base_model.vae import to_pixels
from miniature.measure.judge import soften
from miniature.world.image_blocks import BASE_PEOPLE, BLOCK, Block, draw_blocks, load_block
from miniature.world.people import split_people
from miniature.world.scenes import Scene, training_scene

PEOPLE = split_people("train")[BASE_PEOPLE:]
"""Training people after those that base model, encoders, judges and DiffLoRA are trained on."""
IMAGES = 8
"""Of each person."""
SHIFT = 5
"""Random shift in pixels, at most."""


def blocks() -> list[Block]:
    """Return the files of the images."""
    return [
        Block(f"metrics_{people[0]:05d}", people, IMAGES)
        for people in (PEOPLE[start : start + BLOCK] for start in range(0, len(PEOPLE), BLOCK))
    ]


@dataclass(frozen=True)
class DrawnBatch:
    """Images, and what they show."""

    images: np.ndarray
    """uint8 (images, 128, 128, 3)."""
    people: Sequence[int]
    """Index of each image's person."""
    scenes: Sequence[Scene]
    """Of each image."""


class DrawnImages:
    """All images, on disk."""

    def __init__(self, build: Path, processes: int) -> None:
        """Draw the images to build/images, as far as they are not there."""
        draw_blocks(build / "images", blocks(), processes)
        self._stacks = [load_block(build / "images", block) for block in blocks()]

    def __len__(self) -> int:
        """Return the number of people."""
        return sum(map(len, self._stacks))

    def draw(self, count: int, generator: torch.Generator) -> DrawnBatch:
        """Draw images of different people, shifted by some pixels at random; the edge is repeated."""
        rows = torch.randperm(len(self), generator=generator)[:count].tolist()
        columns = torch.randint(IMAGES, (count,), generator=generator).tolist()
        corners = torch.randint(2 * SHIFT + 1, (count, 2), generator=generator).tolist()
        images = []
        for row, column, (top, left) in zip(rows, columns, corners, strict=True):
            image = self._stacks[row // BLOCK][row % BLOCK, column]
            padded = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "edge")
            images.append(padded[top : top + image.shape[0], left : left + image.shape[1]])
        people = [PEOPLE[row] for row in rows]
        scenes = [training_scene(who, column) for who, column in zip(people, columns, strict=True)]
        return DrawnBatch(np.stack(images), people, scenes)


def softened_pixels(images: np.ndarray, generator: torch.Generator) -> Tensor:
    """Return images as generated ones may look: blurred, noisy, tinted; float32 (n, 3, 128, 128) in [0, 1].

    Args:
        images: uint8 (n, 128, 128, 3).
        generator: Source of strengths and noise.
    """
    return soften(to_pixels(images), generator)
