"""Train through the base model's pictures: first the LoRA autoencoder, later MIF and DiT.

Both start from networks that were trained on teachers' numbers, and both keep a share of that loss, so that latents
keep their meaning. What changes is who judges: the frozen base model, on the people's pictures (`picture_loss`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from difflora_core.diffusion import TIMESTEPS, NoiseSchedule, draw_timesteps
from difflora_core.lae import LAE
from difflora_core.losses import reconstruction

from .denoising import Album
from .picture_loss import PictureLoss
from .train_difflora import Conditions, Denoiser, draw_references
from .training_loop import LossFunction, TrainConfig

VALIDATION_STEPS = 4
"""Batches of each validation person's pictures; their noise and timesteps never change."""


@dataclass(frozen=True)
class PictureTraining:
    """people: per step and process. numbers: weight of the loss on numbers, beside the pictures' of 1. noise: deviation
    added to the autoencoder's input, in units of the factor's scale."""

    loop: TrainConfig
    people: int = 16
    numbers: float = 0.02
    noise: float = 0.0


@dataclass(frozen=True)
class DenoiserPictures:
    """people: whose pictures are looked at in a step and process. batch: teachers of the diffusion loss in the same
    step; numbers: its weight, beside the pictures' of 1. The rest as in `DiffLoRATraining`."""

    loop: TrainConfig
    people: int = 16
    batch: int = 32
    numbers: float = 0.02
    most_references: int = 6
    embedding_noise: float = 0.25
    drop_condition: float = 0.1
    drop_expert: float = 0.3
    toward_noise: float = 1.5


class Autoencode(nn.Module):
    """The LAE's network both ways as one forward pass, so that gradients are shared between processes."""

    def __init__(self, lae: LAE) -> None:
        super().__init__()
        self.lae = lae

    def forward(self, numbers: Tensor) -> Tensor:
        return self.lae.network.decode(self.lae.network.encode(numbers))


def lae_loss(
    lae: LAE, loras: Tensor, albums: Sequence[Album], pictures: PictureLoss, training: PictureTraining
) -> LossFunction:
    """Loss of an `Autoencode` on teachers (people, numel) and the same people's albums."""
    numbers = lae.normalise(loras)

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        people = torch.randperm(len(numbers), generator=generator)[: training.people]
        target = numbers[people]
        seen = target + training.noise * torch.randn(target.shape, generator=generator) if training.noise else target
        predicted = model(seen)
        seeing = pictures(lae.restore(predicted), [albums[i] for i in people.tolist()], step).mean()
        counting = reconstruction(predicted, target)
        return seeing + training.numbers * counting, {"picture": seeing.item(), "numbers": counting.item()}

    return loss


@dataclass(frozen=True)
class Everyone:
    """People for the second stage: embeddings and albums of all, latents of those who have a teacher.

    conditions: of all people. albums: in the same order. taught: int64 (teachers,), who has a teacher. latents:
    (teachers, tokens, width), standardised.
    """

    conditions: Conditions
    albums: Sequence[Album]
    taught: Tensor
    latents: Tensor

    def __post_init__(self) -> None:
        if len(self.albums) != len(self.conditions.face) or len(self.taught) != len(self.latents):
            raise ValueError(
                f"Found {len(self.albums)} albums for {len(self.conditions.face)} people's embeddings, and "
                f"{len(self.latents)} latents for {len(self.taught)} people with a teacher: they must agree."
            )


def denoiser_loss(
    denoiser: Denoiser, lae: LAE, everyone: Everyone, pictures: PictureLoss, training: DenoiserPictures
) -> LossFunction:
    """Loss of a `Denoiser`: pictures of LoRAs predicted from noise, and the diffusion loss on teachers beside it.

    Half of the pictures' rows are predicted from pure noise, as in the first step of sampling; the others from the
    network's own prediction with noise added, as in later steps. Nobody needs a teacher for that.
    """
    schedule = NoiseSchedule()
    shape = everyone.latents.shape[1:]

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        seen = torch.randperm(len(everyone.albums), generator=generator)[: training.people]
        numbered = torch.randint(0, len(everyone.latents), (training.batch,), generator=generator)
        who = torch.cat([seen, everyone.taught[numbered]])
        counts = torch.randint(1, training.most_references + 1, (len(who),), generator=generator)
        face, image = (
            draw_references(embeddings, who, counts, training.embedding_noise, generator)
            for embeddings in (everyone.conditions.face, everyone.conditions.image)
        )
        lonely = torch.rand(2, generator=generator)
        only = None if lonely[0] >= training.drop_expert else ("face" if lonely[1] < 0.5 else "image")
        experts = (None if only == "image" else face, None if only == "face" else image)

        timesteps = draw_timesteps(len(who), generator, training.toward_noise)
        first = torch.rand(len(seen), generator=generator) < 0.5
        timesteps[: len(seen)][first] = TIMESTEPS - 1
        noise = torch.randn(len(who), *shape, generator=generator)
        dropped = torch.rand(len(who), generator=generator) < training.drop_condition
        dropped[: len(seen)] = False
        with torch.no_grad():
            last = torch.full((len(seen),), TIMESTEPS - 1)
            alone = [None if expert is None else expert[: len(seen)] for expert in experts]
            start = torch.randn(len(seen), *shape, generator=generator)
            guess = denoiser(start, last, *alone, dropped[: len(seen)])
        clean = torch.cat([guess, everyone.latents[numbered]])
        noisy = schedule.add_noise(clean, noise, timesteps)
        noisy[: len(seen)][first] = start[first]
        predicted = model(noisy, timesteps, *experts, dropped)
        loras = lae.decode(predicted[: len(seen)])
        seeing = pictures(loras, [everyone.albums[i] for i in seen.tolist()], step).mean()
        counting = (predicted[len(seen) :] - clean[len(seen) :]).square().mean()
        return seeing + training.numbers * counting, {"picture": seeing.item(), "numbers": counting.item()}

    return loss


@torch.no_grad()
def picture_figures(pictures: PictureLoss, loras: Tensor, albums: Sequence[Album], people: int = 16) -> Tensor:
    """Each person's loss (people,) on their pictures, with always the same noise: only to be compared with others'."""
    rows = []
    for start in range(0, len(loras), people):
        chunk = slice(start, start + people)
        losses = [pictures(loras[chunk], albums[chunk], -1 - step) for step in range(VALIDATION_STEPS)]
        rows.append(torch.stack(losses).mean(0))
    return torch.cat(rows)
