"""Train MIF and DiT on the latents of a frozen LAE.

Two inputs: the latents of the teachers, and the frozen encoders' embeddings of many pictures of each person. While
training, a random handful of a person's pictures is averaged into the condition, as at inference, so that the network
sees one picture as well as many (paper: pictures of the same person are sampled at random).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.diffusion import TIMESTEPS, NoiseSchedule, draw_timesteps
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig, Mode
from difflora_core.denoiser.model import Denoiser
from difflora_core.losses import DeltaWeights
from training.engine import loop as training_loop
from training.engine.loop import LossFunction, TrainConfig, generator_of_step
from training.engine.rounds import Figures, Report, train_in_rounds
from training.people.conditions import People, draw_references

from .validation import validate


@dataclass(frozen=True)
class DiffLoRATraining:
    """How the denoiser is trained.

    objective: `diffusion`, or `regression`, which is the baseline: the same network maps the condition to the latent in
    one pass, from zero input at the last timestep. batch: people per step and process. blend: share of samples that are
    blends of two people, in embeddings and latent alike; all teachers share one start, so a blend is a plausible
    person, and a thousand people become many (mixup, Zhang et al. 2018). max_references: pictures averaged, at most.
    embedding_noise: relative to an embedding's length. cfg_dropout: share of samples that learn the null condition.
    modality_dropout: share of steps that see only face or only image, as often one as the other; face_dropout, image_dropout:
    either share on its own, in place of half of modality_dropout. timestep_bias: see `draw_timesteps`. min_snr_gamma: see
    `NoiseSchedule.weight`. delta_w_…: see `DeltaTerms`. rounds: validations, of which the best by the figure monitor is
    kept; patience: stop after so many without improvement; validation_references: pictures averaged there.
    gradient_checkpointing: of the DiT's blocks. loop.compile compiles those blocks alone.
    """

    loop: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=5000, learning_rate=1e-3, warmup=200, weight_decay=0.02, ema=0.999)
    )
    objective: Literal["diffusion", "regression"] = "diffusion"
    batch: int = 64
    blend: float = 0.0
    max_references: int = 8
    embedding_noise: float = 0.25
    cfg_dropout: float = 0.1
    modality_dropout: float = 0.1
    face_dropout: float | None = None
    image_dropout: float | None = None
    timestep_bias: float = 1.5
    min_snr_gamma: float | None = None
    delta_w_error: float = 0.0
    delta_w_direction: float = 0.0
    delta_w_rows: int = 8
    delta_w_below: int = TIMESTEPS
    rounds: int = 10
    patience: int | None = None
    validation_references: int = 3
    monitor: Literal["r2", "delta_w_cosine", "teacher_recovery"] = "r2"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.objective not in ("diffusion", "regression"):
            raise ValueError(f"The objective is diffusion or regression, found {self.objective!r}.")
        if min(self.batch, self.max_references, self.rounds, self.validation_references, self.delta_w_rows) < 1:
            raise ValueError("Batch, references, rounds and delta_w_rows are at least 1, found a smaller one.")
        if min(self.without_expert) < 0 or sum(self.without_expert) > 1:
            raise ValueError(
                f"The shares of steps without face and without image lie between 0 and 1 together, found "
                f"{self.without_expert}."
            )

    @property
    def without_expert(self) -> tuple[float, float]:
        """Shares of steps without the face, and without the image."""
        half = self.modality_dropout / 2
        return (
            half if self.face_dropout is None else self.face_dropout,
            half if self.image_dropout is None else self.image_dropout,
        )


class DeltaTerms:
    """Extra loss through the frozen LAE decoder: what a wrong latent does to the weight changes ΔW.

    The terms are `DeltaWeights.relative_error` and `.direction`, as in the LAE's own training. Target is the decoded
    clean latent, not the teacher: what the LAE has lost the DiT can't bring back, and a blend of people has no teacher.
    All timesteps count alike by default, because a sampler of few steps lives on the first predictions, made from
    nearly pure noise; delta_w_below leaves out timesteps from there on. The decoder costs far more than the DiT at
    SDXL's size, so only `delta_w_rows` people of a batch are decoded. All this is our choice.
    """

    def __init__(self, lae: LAE, config: DiffLoRATraining) -> None:
        self.lae, self.deltas, self.config = lae, DeltaWeights(lae.layout), config

    def __call__(self, predicted: Tensor, clean: Tensor, timesteps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms, and each on its own. All (batch, …), of which the first fitting rows count.

        timesteps: on the CPU, which then needn't wait for the device.
        """
        rows = (timesteps < self.config.delta_w_below).nonzero()[: self.config.delta_w_rows, 0]
        if not len(rows):
            return predicted.new_zeros(()), {}
        rows = rows.to(predicted.device)
        self.lae.to(predicted.device)
        self.deltas.to(predicted.device)
        with torch.autocast(predicted.device.type, enabled=False):  # differences of products: float32 or nothing
            with torch.no_grad():
                target = self.lae.decode(clean[rows].float())
            made = self.lae.decode(predicted[rows].float())
            error = self.deltas.relative_error(made, target)
            direction = self.deltas.direction(made, target)
        figures = {"delta_w_error": error.detach(), "delta_w_direction": direction.detach()}
        return self.config.delta_w_error * error + self.config.delta_w_direction * direction, figures


def new_denoiser(dit: DiTConfig, mif: MIFConfig, config: DiffLoRATraining) -> Denoiser:
    """Untrained networks, the same for the same seed.

    For `regression` the layer that takes the noisy latent starts at zero and stays there, because its input is zero
    while training: so the trained network gives the same x0 from any noise, and whoever samples it in one step without
    guidance (`SamplingConfig(steps=1, guidance_scale=1, samples=1)`) gets the regression, with no flag to be known.
    """
    with torch.random.fork_rng(devices=[]):  # modules can draw their first weights from the global generator only
        torch.manual_seed(config.loop.seed)
        model = Denoiser(dit, mif)
    if config.objective == "regression":
        nn.init.zeros_(model.dit.embed.weight)
    model.dit.gradient_checkpointing = config.gradient_checkpointing
    if config.loop.compile:
        model.dit.compile_blocks(backend=training_loop.COMPILER)
    return model


def denoising_loss(
    training: People, config: DiffLoRATraining, lae: LAE | None = None, mode: Mode = "gate"
) -> LossFunction:
    """The loss of a `Denoiser` on these people. Everything is drawn on the CPU: a seed means the same on any device.

    mode: MIF's. The one expert of `face` or `image` is never dropped.

    Raises:
        ValueError: there are fewer people than a batch has, or the terms through the LAE are on and there is none.
    """
    if config.batch > len(training.latents):
        raise ValueError(
            f"A batch has {config.batch} people, found only {len(training.latents)} to train on: make `batch` smaller."
        )
    if (config.delta_w_error or config.delta_w_direction) and lae is None:
        raise ValueError("delta_w_error and delta_w_direction look through the LAE, found none.")
    terms = DeltaTerms(lae, config) if lae is not None and (config.delta_w_error or config.delta_w_direction) else None
    schedule = NoiseSchedule()
    latents, conditions, counted = training.latents, training.conditions, training.conditions.counts
    without_face, without_image = config.without_expert if mode in ("gate", "mean") else (0.0, 0.0)
    single_modality_share = without_face + without_image

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        people, others = torch.randint(0, len(latents), (2, config.batch), generator=generator)
        counts = torch.randint(1, config.max_references + 1, (config.batch,), generator=generator)
        amount = 0.5 * torch.rand(config.batch, generator=generator)
        amount = amount * (torch.rand(config.batch, generator=generator) < config.blend)

        def references(embeddings: Tensor) -> Tensor:
            one, other = (
                draw_references(embeddings, who, counts, config.embedding_noise, generator, counted)
                for who in (people, others)
            )
            return F.normalize(torch.lerp(one, other, amount[:, None]), dim=-1)

        face, image = references(conditions.face), references(conditions.image)
        single_modality = torch.rand(2, generator=generator_of_step(config.loop.seed, step))
        only = None
        if single_modality[0] < single_modality_share:
            only = "face" if single_modality[1] * single_modality_share < without_image else "image"
        clean = torch.lerp(latents[people], latents[others], amount[:, None, None])
        timesteps = draw_timesteps(config.batch, generator, config.timestep_bias)
        noise = torch.randn(clean.shape, generator=generator)
        if config.objective == "regression":
            timesteps = torch.full_like(timesteps, TIMESTEPS - 1)
            noisy, weight = torch.zeros_like(clean), torch.ones(config.batch)
        else:
            noisy, weight = (
                schedule.add_noise(clean, noise, timesteps),
                schedule.weight(timesteps, config.min_snr_gamma),
            )
        dropped = torch.rand(config.batch, generator=generator) < config.cfg_dropout
        device = next(model.parameters()).device
        face, image, clean, noisy, times, dropped, weight = (
            tensor.to(device, non_blocking=True) for tensor in (face, image, clean, noisy, timesteps, dropped, weight)
        )
        predicted = model(noisy, times, None if only == "image" else face, None if only == "face" else image, dropped)
        error = (predicted - clean).square().mean((1, 2))
        value = (weight * error).mean()
        if terms is None:
            return value, {}
        extra, figures = terms(predicted, clean, timesteps)
        return value + extra, figures

    return loss


def train_denoiser(
    training: People,
    validation: People,
    dit: DiTConfig,
    mif: MIFConfig,
    config: DiffLoRATraining,
    folder: Path,
    report: Report,
    lae: LAE | None = None,
    look: Callable[[Denoiser, int], Figures] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Denoiser:
    """Train on `training`, keep the round that predicts `validation` best; resumable in folder/difflora.safetensors.

    A thousand people are few: how long a network may learn from them only other people can tell. lae: frozen, for the
    ΔW terms and for validating ΔW. look(model, round) adds figures of its own to a round's, round counting from 1 in
    the process that reports. settings: see `train_in_rounds`.
    """
    loss = denoising_loss(training, config, lae, mif.mode)
    model = new_denoiser(dit, mif, config)
    told = 0

    def tell(name: str, figures: Figures) -> None:
        nonlocal told
        told += 1
        report(name, figures)

    def check() -> Figures:
        figures = validate(model.eval(), validation, config.validation_references, lae=lae)
        return figures | (look(model, told + 1) if look else {})

    # A step that drops an expert leaves its parameters without a gradient; what is to be compiled is already
    loop = replace(config.loop, unused_parameters=True, compile=False)
    train_in_rounds(
        model,
        loss,
        loop,
        folder,
        "difflora",
        config.rounds,
        dict,
        check,
        tell,
        config.patience,
        by=config.monitor,
        settings=settings,
    )
    return model
