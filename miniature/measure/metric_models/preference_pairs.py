"""Pairs of images of which one is to be preferred for a prompt: preferences of a drawn world, where nobody is asked.

Preferred is the image that shows more of what the prompt says; of two that show the same, the sharper one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.measure.judge import ATTRIBUTES
from miniature.world.scenes import Scene, caption

from .drawn_images import DrawnImages, softened_pixels

LIKE_FIRST, LIKE_SECOND = 0.4, 0.4
"""Share of a prompt's attributes that are those of the first and of the second image; others are random."""
BLUR = 3
"""Of an image that shows the same as the other one: how many pixels become one."""


@dataclass(frozen=True)
class PreferencePairs:
    """Prompts with two images each."""

    prompts: Sequence[str]
    """In the words of the drawn world's captions."""
    preferred: Tensor
    """float32 (pairs, 3, 128, 128) in [0, 1]."""
    other: Tensor
    """float32 (pairs, 3, 128, 128) in [0, 1]."""
    scenes: Sequence[Scene]
    """What the preferred images show, then the others."""

    @property
    def pixels(self) -> Tensor:
        """The preferred images, then the others."""
        return torch.cat([self.preferred, self.other])


def draw_pairs(images: DrawnImages, count: int, generator: torch.Generator) -> PreferencePairs:
    """Draw pairs of images of different people, all of one softness."""
    batch = images.draw(2 * count, generator)
    pixels = softened_pixels(batch.images, generator)
    prompts, preferred, other, shown = [], [], [], []
    for row in range(count):
        first, second = batch.scenes[row], batch.scenes[row + count]
        prompt = prompt_between(first, second, generator)
        prompts.append(caption(prompt))
        lead = matches(first, prompt) - matches(second, prompt)
        better, worse = (row, row + count) if lead > 0 else (row + count, row) if lead < 0 else (row, row)
        preferred.append(pixels[better])
        other.append(blurred(pixels[worse]) if lead == 0 else pixels[worse])
        shown.append((batch.scenes[better], batch.scenes[worse]))
    scenes = [scene for column in zip(*shown, strict=True) for scene in column]
    return PreferencePairs(prompts, torch.stack(preferred), torch.stack(other), scenes)


def prompt_between(first: Scene, second: Scene, generator: torch.Generator) -> Scene:
    """Draw what a prompt says: each attribute as in one of two images, or any other."""
    attributes: dict[str, Any] = {}
    for name, words in ATTRIBUTES.items():
        chance = float(torch.rand((), generator=generator))
        any_word = words[int(torch.randint(len(words), (), generator=generator))]
        own = getattr(first, name) if chance < LIKE_FIRST else getattr(second, name)
        attributes[name] = own if chance < LIKE_FIRST + LIKE_SECOND else any_word
    return Scene(**attributes)


def matches(shown: Scene, prompt: Scene) -> int:
    """Count the attributes that are as in the prompt."""
    return sum(getattr(shown, name) == getattr(prompt, name) for name in ATTRIBUTES)


def blurred(pixels: Tensor) -> Tensor:
    """Blur an image (3, side, side)."""
    side = pixels.shape[-1]
    small = F.interpolate(pixels[None], size=side // BLUR, mode="bilinear", antialias=True)
    return F.interpolate(small, size=side, mode="bilinear")[0]
