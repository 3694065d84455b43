"""A person's training images, and the order in which training steps take them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from difflora_core.seeds import generator_for


@dataclass(frozen=True)
class PersonImages:
    """One person's training images.

    People whose images were made from one list of prompts see the same captions in the same steps, even where a person
    lacks some of the images: `positions` says which prompts a person's images belong to.
    """

    name: str
    """The person, from which generators of their own are seeded."""
    latents: Tensor
    """Scaled latents (images, channels, h, w)."""
    text_rows: Tensor
    """Each image's row of a table of text embeddings that all people share, int64 (images,)."""
    positions: Tensor
    """Each image's position in the list of prompts, ascending, int64 (images,)."""
    prompt_count: int
    """Length of the list of prompts."""
    loss_weights: Tensor | None = None
    """What each place weighs in the loss (images, h, w), mean 1 over an image; None is 1 everywhere."""

    @classmethod
    def complete(cls, name: str, latents: Tensor, text_rows: Tensor, loss_weights: Tensor | None = None) -> Self:
        """Make the images of a person who lacks none."""
        return cls(name, latents, text_rows, torch.arange(len(latents)), len(latents), loss_weights)

    def nearest(self, positions: Tensor) -> Tensor:
        """Return the images at these positions (n,): for a missing one the next one, after the last the first."""
        return torch.searchsorted(self.positions, positions) % len(self.positions)


def image_order(count: int, step: int, images_per_person: int, seed: int, person: str | None = None) -> Tensor:
    """Return the images that a step takes: every image in turn, in a new order in each pass through them.

    Args:
        count: Number of images.
        step: Of the training.
        images_per_person: How many a step takes.
        seed: Of the training.
        person: A name for an order of the person's own; None is one order for all people.

    Returns:
        Image numbers, int64 (images_per_person,).
    """
    first = step * images_per_person
    generator = generator_for(seed, "image order", first // count, *([] if person is None else [person]))
    order = torch.randperm(count, generator=generator)
    return order[torch.arange(first, first + images_per_person) % count]
