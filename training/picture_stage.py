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

from .conditions import Conditions, draw_references
from .denoising import Album
from .difflora_training import Denoiser
from .lae_data import LoRAs
from .picture_loss import PictureLoss
from .training_loop import LossFunction, TrainConfig

VALIDATION_STEPS = 4
"""Batches of each validation person's pictures; their noise and timesteps never change."""


@dataclass(frozen=True)
class PictureTraining:
    """people: per step and process. numbers: weight of the loss on numbers, beside the pictures' of 1."""

    loop: TrainConfig
    people: int = 16
    numbers: float = 0.02


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
    lae: LAE, loras: LoRAs, albums: Sequence[Album], pictures: PictureLoss, training: PictureTraining
) -> LossFunction:
    """Loss of an `Autoencode` on teachers and the same people's albums, in the same order."""

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        people = torch.randperm(len(loras), generator=generator)[: training.people].tolist()
        target = lae.normalise(loras.read(people).to(lae.mean.device))
        predicted = model(target)
        seeing = pictures(lae.restore(predicted), [albums[i] for i in people], step).mean()
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
    shape = everyone.latents.shape[1:]
    schedule = NoiseSchedule()

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        device = next(denoiser.parameters()).device
        schedule.to(device)
        seen = torch.randperm(len(everyone.albums), generator=generator)[: training.people]
        numbered = torch.randint(0, len(everyone.latents), (training.batch,), generator=generator)
        experts = _draw_experts(everyone.conditions, torch.cat([seen, everyone.taught[numbered]]), training, generator)
        face, image = (None if expert is None else expert.to(device) for expert in experts)

        count, rows = len(seen), len(seen) + len(numbered)
        timesteps = draw_timesteps(rows, generator, training.toward_noise)
        first = torch.rand(count, generator=generator) < 0.5
        timesteps[:count][first] = TIMESTEPS - 1
        dropped = torch.rand(rows, generator=generator) < training.drop_condition
        dropped[:count] = False
        start, noise = torch.randn(count, *shape, generator=generator), torch.randn(rows, *shape, generator=generator)
        start, noise, timesteps, dropped = (x.to(device) for x in (start, noise, timesteps, dropped))
        with torch.no_grad():
            last = torch.full((count,), TIMESTEPS - 1, device=device)
            alone = [None if expert is None else expert[:count] for expert in (face, image)]
            guess = denoiser(start, last, *alone, dropped[:count])
        clean = torch.cat([guess, everyone.latents[numbered].to(device)])
        noisy = schedule.add_noise(clean, noise, timesteps)
        noisy[:count][first] = start[first]

        predicted = model(noisy, timesteps, face, image, dropped)
        loras = lae.decode(predicted[:count])
        seeing = pictures(loras, [everyone.albums[i] for i in seen.tolist()], step).mean()
        counting = reconstruction(predicted[count:], clean[count:])
        return seeing + training.numbers * counting, {"picture": seeing.item(), "numbers": counting.item()}

    return loss


def _draw_experts(
    conditions: Conditions, people: Tensor, training: DenoiserPictures, generator: torch.Generator
) -> tuple[Tensor | None, Tensor | None]:
    """Face and image embeddings of a random handful of each person's pictures; sometimes one of them alone."""
    counts = torch.randint(1, training.most_references + 1, (len(people),), generator=generator)
    if conditions.counts is None:
        counts = counts.clamp_max(conditions.face.shape[1])
    face, image = (
        draw_references(embeddings, people, counts, training.embedding_noise, generator, conditions.counts)
        for embeddings in (conditions.face, conditions.image)
    )
    lonely = torch.rand(2, generator=generator)
    if lonely[0] >= training.drop_expert:
        return face, image
    return (face, None) if lonely[1] < 0.5 else (None, image)


@torch.no_grad()
def picture_figures(pictures: PictureLoss, loras: Tensor, albums: Sequence[Album], people: int = 16) -> Tensor:
    """Each person's loss (people,) on their pictures, with always the same noise: only to be compared with others'."""
    rows = []
    for start in range(0, len(loras), people):
        chunk = slice(start, start + people)
        losses = [
            pictures(loras[chunk].to(pictures.device), albums[chunk], -1 - step) for step in range(VALIDATION_STEPS)
        ]
        rows.append(torch.stack(losses).mean(0).cpu())
    return torch.cat(rows)


class PictureGain:
    """How much of what teachers gain on their people's held-out pictures other LoRAs gain: 0 as without a LoRA, 1 as
    the teachers, more than 1 where they beat them."""

    def __init__(self, pictures: PictureLoss, albums: Sequence[Album], teachers: Tensor) -> None:
        """albums: of people outside the training. teachers: (people, numel), theirs.

        Raises:
            ValueError: the teachers gain nothing, so there is nothing to compare with.
        """
        self.pictures, self.albums = pictures, albums
        self.without = float(picture_figures(pictures, torch.zeros_like(teachers), albums).mean())
        self.teacher = float(picture_figures(pictures, teachers, albums).mean())
        if not self.teacher < self.without:
            raise ValueError(
                f"With their teachers the held-out pictures of {len(albums)} people have the loss {self.teacher:.5f}, "
                f"without {self.without:.5f}: the teachers are no use on these pictures, or are not of this base model."
            )

    def __call__(self, loras: Tensor) -> float:
        """Of LoRAs (people, numel) of the same people."""
        loss = float(picture_figures(self.pictures, loras, self.albums).mean())
        return (self.without - loss) / (self.without - self.teacher)


@torch.no_grad()
def predict_from_noise(denoiser: Denoiser, face: Tensor, image: Tensor, draws: int = 4) -> Tensor:
    """Latents (people, tokens, width) in one step from pure noise, averaged over a few noises: what is validated.

    face, image: embeddings (people, width) of each person's references.
    """
    config, device = denoiser.dit.config, next(denoiser.parameters()).device
    condition, _ = denoiser.mif(face.to(device), image.to(device))
    generator = torch.Generator().manual_seed(0)
    last = torch.full((len(face),), TIMESTEPS - 1, device=device)
    total = torch.zeros(len(face), config.tokens, config.latent_width, device=device)
    for _ in range(draws):
        noise = torch.randn(total.shape, generator=generator).to(device)
        total += denoiser.dit(noise, last, condition) / draws
    return total
