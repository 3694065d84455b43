"""Train MIF and DiT on the latents of a frozen LAE, and put all three into one checkpoint.

Two inputs: the latents of the teachers, and the frozen encoders' embeddings of many pictures of each person. While
training, a random handful of a person's pictures is averaged into the condition, as at inference, so that the network
sees one picture as well as many (paper: pictures of the same person are sampled at random).
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from difflora_core.diffusion import TIMESTEPS, NoiseSchedule, draw_timesteps
from difflora_core.dit import DiT, DiTConfig
from difflora_core.mif import MIF, MIFConfig, mean_embedding

from .rounds import Figures, Report, train_in_rounds
from .training_loop import TrainConfig


@dataclass(frozen=True)
class Conditions:
    """Embeddings of people's pictures. face: (people, pictures, face_width). image: (people, pictures, image_width)."""

    face: Tensor
    image: Tensor

    def __post_init__(self) -> None:
        if self.face.shape[:2] != self.image.shape[:2]:
            raise ValueError(
                f"Face and image embeddings are of the same pictures, found {tuple(self.face.shape[:2])} and "
                f"{tuple(self.image.shape[:2])} (people, pictures)."
            )


@dataclass(frozen=True)
class People:
    """What is known of some people. latents: standardised (people, tokens, width). conditions: of their pictures."""

    latents: Tensor
    conditions: Conditions

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.conditions.face):
            raise ValueError(
                f"Latents and embeddings are of the same people, found {len(self.latents)} and "
                f"{len(self.conditions.face)}."
            )


@dataclass(frozen=True)
class DiffLoRATraining:
    """How the denoiser is trained.

    batch: people per step. blend: share of samples that are blends of two people, in embeddings and latent alike; all
    teachers share one start, so a blend is a plausible person, and a thousand people become many (mixup, Zhang et al.
    2018). embedding_noise: relative to an embedding's length. drop_condition: share of samples that learn the null
    condition; drop_expert: share of steps that see only face or only image. toward_noise: see `draw_timesteps`.
    min_snr_gamma: see `NoiseSchedule.weight`. rounds: validations, of which the best is kept; patience: stop after so
    many without improvement; validation_references: pictures averaged there.
    """

    loop: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=5000, learning_rate=1e-3, warmup=200, weight_decay=0.02, ema=0.999)
    )
    batch: int = 64
    blend: float = 0.0
    most_references: int = 8
    embedding_noise: float = 0.25
    drop_condition: float = 0.1
    drop_expert: float = 0.1
    toward_noise: float = 1.5
    min_snr_gamma: float | None = None
    rounds: int = 10
    patience: int | None = None
    validation_references: int = 3


class Denoiser(nn.Module):
    """MIF and DiT as one module, so that they train as one."""

    def __init__(self, dit: DiTConfig, mif: MIFConfig) -> None:
        super().__init__()
        self.dit, self.mif = DiT(dit), MIF(mif)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, face: Tensor | None, image: Tensor | None, dropped: Tensor
    ) -> Tensor:
        """x0; dropped: (batch,) bool, who gets the null condition."""
        condition, _ = self.mif(face, image)
        condition = torch.where(dropped[:, None], self.mif.null, condition)
        return self.dit(noisy, timesteps, condition)


def draw_references(
    embeddings: Tensor, people: Tensor, counts: Tensor, noise: float, generator: torch.Generator
) -> Tensor:
    """Mean of a random handful of each person's unit embeddings plus noise: (batch, width), unit length.

    embeddings: (all people, pictures, width). people: (batch,). counts: (batch,) pictures to average.
    """
    pictures = embeddings.shape[1]
    order = torch.rand(len(people), pictures, generator=generator).argsort(1)
    chosen = (order < counts[:, None]).float()
    mean = torch.einsum("bp,bpw->bw", chosen, F.normalize(embeddings[people].float(), dim=-1)) / counts[:, None]
    jitter = torch.randn(mean.shape, generator=generator) * (noise / mean.shape[1] ** 0.5)
    return F.normalize(F.normalize(mean, dim=-1) + jitter, dim=-1)


@torch.no_grad()
def validate(model: Denoiser, people: People, references: int, draws: int = 4) -> Figures:
    """R² of x0 predicted from pure noise, where only the condition knows the person.

    Against the latents' own size, so the average person has 0. The prediction is averaged over `draws` noises.
    """
    pictures = people.conditions.face[:, :references], people.conditions.image[:, :references]
    face, image = (torch.cat([mean_embedding(one.float()) for one in embeddings]) for embeddings in pictures)
    condition, _ = model.mif(face, image)
    generator = torch.Generator().manual_seed(0)
    predicted = torch.zeros_like(people.latents)
    last = torch.full((len(condition),), TIMESTEPS - 1)
    for _ in range(draws):
        predicted += model.dit(torch.randn(predicted.shape, generator=generator), last, condition) / draws
    error = (predicted - people.latents).square().sum()
    return {"r2": float(1 - error / people.latents.square().sum())}


def train_denoiser(
    training: People,
    validation: People,
    dit: DiTConfig,
    mif: MIFConfig,
    config: DiffLoRATraining,
    folder: Path,
    report: Report,
) -> Denoiser:
    """Train on `training`, keep the round that predicts `validation` best; resumable in folder/difflora.safetensors.

    A thousand people are few: how long a network may learn from them only other people can tell.
    """
    schedule = NoiseSchedule()
    latents, conditions = training.latents, training.conditions

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        people, others = torch.randint(0, len(latents), (2, config.batch), generator=generator)
        counts = torch.randint(1, config.most_references + 1, (config.batch,), generator=generator)
        amount = 0.5 * torch.rand(config.batch, generator=generator)
        amount = amount * (torch.rand(config.batch, generator=generator) < config.blend)

        def references(embeddings: Tensor) -> Tensor:
            one, other = (
                draw_references(embeddings, who, counts, config.embedding_noise, generator) for who in (people, others)
            )
            return F.normalize(torch.lerp(one, other, amount[:, None]), dim=-1)

        face, image = references(conditions.face), references(conditions.image)
        lonely = torch.rand(2, generator=generator)
        only = None if lonely[0] >= config.drop_expert else ("face" if lonely[1] < 0.5 else "image")
        clean = torch.lerp(latents[people], latents[others], amount[:, None, None])
        timesteps = draw_timesteps(config.batch, generator, config.toward_noise)
        noisy = schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), timesteps)
        dropped = torch.rand(config.batch, generator=generator) < config.drop_condition
        predicted = model(
            noisy, timesteps, None if only == "image" else face, None if only == "face" else image, dropped
        )
        error = (predicted - clean).square().mean((1, 2))
        return (schedule.weight(timesteps, config.min_snr_gamma) * error).mean(), {}

    with torch.random.fork_rng(devices=[]):  # modules can draw their first weights from the global generator only
        torch.manual_seed(config.loop.seed)
        model = Denoiser(dit, mif)

    def check() -> Figures:
        return validate(model.eval(), validation, config.validation_references)

    train_in_rounds(model, loss, config.loop, folder, "difflora", config.rounds, dict, check, report, config.patience)
    return model
