"""What the denoiser is trained on: people's latents, and their images' embeddings as conditions.

A person may have any number of images: embeddings are padded to the most, with a count per person.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.denoiser.mif import mean_embedding


@dataclass(frozen=True)
class Conditions:
    """Embeddings of people's images.

    Raises:
        ValueError: Shapes or counts don't fit together.
    """

    face: Tensor
    """(people, images, face_width)."""
    image: Tensor
    """(people, images, image_width)."""
    counts: Tensor | None = None
    """int64 (people,): how many of the images a person has, the rest being padding; None if all have all."""

    def __post_init__(self) -> None:
        if self.face.shape[:2] != self.image.shape[:2]:
            raise ValueError(
                f"Face and image embeddings are of the same images, found {tuple(self.face.shape[:2])} and "
                f"{tuple(self.image.shape[:2])} (people, images)."
            )
        if self.counts is None:
            return
        if self.counts.shape != self.face.shape[:1]:
            raise ValueError(
                f"Every person has one count of images, found counts {tuple(self.counts.shape)} for "
                f"{len(self.face)} people."
            )
        if len(self.counts) and not 1 <= self.counts.min() <= self.counts.max() <= self.face.shape[1]:
            raise ValueError(
                f"Every person has 1 to {self.face.shape[1]} images, found counts from {int(self.counts.min())} to "
                f"{int(self.counts.max())}."
            )

    def first(self, references: int) -> tuple[Tensor, Tensor]:
        """Average each person's first images, as at inference: face and image, (people, width), unit length."""
        counts = [self.face.shape[1]] * len(self.face) if self.counts is None else self.counts.tolist()
        face, image = (
            torch.cat([mean_embedding(own[: min(references, n)].float()) for own, n in zip(e, counts, strict=True)])
            for e in (self.face, self.image)
        )
        return face, image


@dataclass(frozen=True)
class People:
    """Latents and conditions of some people.

    Raises:
        ValueError: The counts of people differ.
    """

    latents: Tensor
    """Standardized (people, tokens, width)."""
    conditions: Conditions
    """Of their images."""
    loras: Tensor | None = None
    """The teachers (some people, numel) of the first people; only an evaluation of ΔW needs them."""

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.conditions.face):
            raise ValueError(
                f"Latents and embeddings are of the same people, found {len(self.latents)} and "
                f"{len(self.conditions.face)}."
            )
        if self.loras is not None and not 1 <= len(self.loras) <= len(self.latents):
            raise ValueError(f"LoRAs are of 1 to {len(self.latents)} of the people, found {len(self.loras)}.")


def draw_references(
    embeddings: Tensor,
    people: Tensor,
    counts: Tensor,
    noise: float,
    generator: torch.Generator,
    available: Tensor | None = None,
) -> Tensor:
    """Average random images of each person, as if they were the references, and add noise.

    Args:
        embeddings: (all people, images, width).
        people: Rows of `embeddings`, (batch,).
        counts: Images to average, (batch,); a person who has fewer contributes all of them.
        noise: Its length relative to the embedding's.
        generator: Of the choice and the noise.
        available: How many images each person has, (all people,), the rest being padding; None is all.

    Returns:
        (batch, width), unit length.
    """
    images = embeddings.shape[1]
    order = torch.rand(len(people), images, generator=generator)
    if available is None:
        order = order.argsort(1)
    else:
        own = available[people]
        padding = torch.arange(images) >= own[:, None]
        order, counts = order.masked_fill(padding, 2.0).argsort(1).argsort(1), counts.minimum(own)
    chosen = (order < counts[:, None]).float()
    mean = torch.einsum("bi,biw->bw", chosen, F.normalize(embeddings[people].float(), dim=-1)) / counts[:, None]
    jitter = torch.randn(mean.shape, generator=generator) * (noise / mean.shape[1] ** 0.5)
    return F.normalize(F.normalize(mean, dim=-1) + jitter, dim=-1)


def draw_embeddings(
    conditions: Conditions, people: Tensor, max_references: int, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Average a random number of random images of each person, see `draw_references`.

    Args:
        conditions: Of all people.
        people: Rows of people, (batch,).
        max_references: Most images.
        noise: See `draw_references`.
        generator: Of everything that is drawn.

    Returns:
        Face and image embeddings (batch, width) of unit length.
    """
    counts = torch.randint(1, max_references + 1, (len(people),), generator=generator)
    if conditions.counts is None:
        counts = counts.clamp_max(conditions.face.shape[1])
    face, image = (
        draw_references(own, people, counts, noise, generator, conditions.counts)
        for own in (conditions.face, conditions.image)
    )
    return face, image


def drop_modality(face: float, image: float, generator: torch.Generator) -> tuple[bool, bool]:
    """Draw which embeddings a step goes without (modality dropout): (face, image), never both.

    Args:
        face: Share of steps without the face.
        image: Share of steps without the image.
        generator: Of the step, which all its micro-batches share: with sharding all processes have to run the same
            modules.
    """
    any_dropped, which = torch.rand(2, generator=generator).tolist()
    if any_dropped >= face + image:
        return False, False
    return (True, False) if which * (face + image) >= image else (False, True)
