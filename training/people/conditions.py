"""What the denoiser is trained on: people's latents, and their pictures' embeddings as conditions.

A person may have any number of pictures: embeddings are padded to the most, with a count per person.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.denoiser.mif import mean_embedding


@dataclass(frozen=True)
class Conditions:
    """Embeddings of people's pictures. face: (people, pictures, face_width). image: (people, pictures, image_width).

    counts: int64 (people,), how many of the pictures a person has, the rest being padding; None if all have all.
    """

    face: Tensor
    image: Tensor
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.face.shape[:2] != self.image.shape[:2]:
            raise ValueError(
                f"Face and image embeddings are of the same pictures, found {tuple(self.face.shape[:2])} and "
                f"{tuple(self.image.shape[:2])} (people, pictures)."
            )
        if self.counts is None:
            return
        if self.counts.shape != self.face.shape[:1]:
            raise ValueError(
                f"Every person has one count of pictures, found counts {tuple(self.counts.shape)} for "
                f"{len(self.face)} people."
            )
        if len(self.counts) and not 1 <= self.counts.min() <= self.counts.max() <= self.face.shape[1]:
            raise ValueError(
                f"Everybody has 1 to {self.face.shape[1]} pictures, found counts from {int(self.counts.min())} to "
                f"{int(self.counts.max())}."
            )

    def first(self, references: int) -> tuple[Tensor, Tensor]:
        """Means of everybody's first pictures, as at inference: face and image, (people, width), unit length."""
        counts = [self.face.shape[1]] * len(self.face) if self.counts is None else self.counts.tolist()
        face, image = (
            torch.cat([mean_embedding(own[: min(references, n)].float()) for own, n in zip(e, counts, strict=True)])
            for e in (self.face, self.image)
        )
        return face, image


@dataclass(frozen=True)
class People:
    """What is known of some people. latents: standardized (people, tokens, width). conditions: of their pictures.

    loras: the teachers themselves (some people, numel), of the first people; only validation by ΔW asks for them.
    """

    latents: Tensor
    conditions: Conditions
    loras: Tensor | None = None

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
    """Mean of a random handful of each person's unit embeddings plus noise: (batch, width), unit length.

    embeddings: (all people, pictures, width). people: (batch,). counts: (batch,) pictures to average. available: (all
    people,), how many pictures somebody has, the rest being padding; who has fewer than the count gives them all.
    noise: its length in lengths of the embedding.
    """
    pictures = embeddings.shape[1]
    order = torch.rand(len(people), pictures, generator=generator)
    if available is None:
        order = order.argsort(1)
    else:
        own = available[people]
        padding = torch.arange(pictures) >= own[:, None]
        order, counts = order.masked_fill(padding, 2.0).argsort(1).argsort(1), counts.minimum(own)
    chosen = (order < counts[:, None]).float()
    mean = torch.einsum("bp,bpw->bw", chosen, F.normalize(embeddings[people].float(), dim=-1)) / counts[:, None]
    jitter = torch.randn(mean.shape, generator=generator) * (noise / mean.shape[1] ** 0.5)
    return F.normalize(F.normalize(mean, dim=-1) + jitter, dim=-1)
