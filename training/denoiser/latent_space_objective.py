"""The loss of MIF and DiT in latent space."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import TIMESTEPS, Mode
from difflora_core.denoiser.noise_schedule import NoiseSchedule, draw_timesteps
from difflora_core.lora.delta_weights import DeltaWeights
from difflora_core.seeds import generator_for
from training.engine.batches_ahead import Objective
from training.people.conditions import People, draw_references, drop_modality

from .config import DiffLoRATraining


class DeltaWeightLoss:
    """Extra loss through the frozen LAE decoder: the effect of a wrong latent on the weight changes ΔW.

    The terms are `DeltaWeights.relative_error` and `.direction`, as in the LAE's own training. Target is the decoded
    clean latent, not the teacher: the DiT can't recover what the LAE has lost, and a blend of people has no teacher.
    All timesteps count alike by default, because a sampler of few steps depends on the first predictions, made from
    nearly pure noise. The decoder costs far more than the DiT at SDXL's size, so only some people of a batch are
    decoded. All this is our choice.
    """

    def __init__(self, lae: LAE, config: DiffLoRATraining) -> None:
        self.lae, self.deltas, self.config = lae, DeltaWeights(lae.layout), config

    def __call__(self, predicted: Tensor, clean: Tensor, timesteps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the terms, and each term.

        Args:
            predicted: Latents (batch, tokens, width).
            clean: The latents to be predicted.
            timesteps: (batch,), on the CPU, which then needn't wait for the device.
        """
        rows = (timesteps < self.config.delta_w_below).nonzero()[: self.config.delta_w_people, 0]
        if not len(rows):
            return predicted.new_zeros(()), {}
        rows = rows.to(predicted.device)
        self.lae.to(predicted.device)
        self.deltas.to(predicted.device)
        with torch.autocast(predicted.device.type, enabled=False):  # differences of products need float32
            with torch.no_grad():
                target = self.lae.decode(clean[rows].float())
            decoded = self.lae.decode(predicted[rows].float())
            error = self.deltas.relative_error(decoded, target)
            direction = self.deltas.direction(decoded, target)
        metrics = {"delta_w_error": error.detach(), "delta_w_direction": direction.detach()}
        return self.config.delta_w_error * error + self.config.delta_w_direction * direction, metrics


class LatentBatch(NamedTuple):
    """What a micro-batch is made of, on the CPU."""

    face: Tensor | None
    """Embeddings (batch, face_width); None in a step without faces."""
    image: Tensor | None
    """Embeddings (batch, image_width); None in a step without images."""
    clean: Tensor
    """Latents (batch, tokens, width)."""
    noise: Tensor
    """Of the same shape."""
    timesteps: Tensor
    """(batch,)."""
    null: Tensor
    """Who gets the null condition, bool (batch,)."""


class LatentObjective(Objective[LatentBatch]):
    """The loss function of a `Denoiser`. All is drawn on the CPU, so that a seed means the same on any device."""

    def __init__(self, people: People, config: DiffLoRATraining, lae: LAE | None = None, mode: Mode = "gate") -> None:
        """Check that the settings fit.

        Args:
            people: To train on.
            config: Of the training.
            lae: Frozen, for the ΔW terms.
            mode: MIF's. With `face` or `image` no modality is dropped.

        Raises:
            ValueError: There are fewer people than a batch has, or the ΔW terms are on and there is no LAE.
        """
        if config.batch > len(people.latents):
            raise ValueError(
                f"A batch has {config.batch} people, found only {len(people.latents)} to train on: lower `batch`."
            )
        delta_w = bool(config.delta_w_error or config.delta_w_direction)
        if delta_w and lae is None:
            raise ValueError("delta_w_error and delta_w_direction need the LAE, found none.")
        self.people, self.config, self.schedule = people, config, NoiseSchedule()
        self.delta_weight_loss = DeltaWeightLoss(lae, config) if lae is not None and delta_w else None
        self.dropouts = config.dropouts if mode in ("gate", "mean") else (0.0, 0.0)

    def draw(self, step: int, generator: torch.Generator) -> LatentBatch:
        """Draw a micro-batch. See `training.engine.batches_ahead.Objective`."""
        config = self.config
        face, image, clean = self.draw_people(generator)
        without_face, without_image = drop_modality(*self.dropouts, generator_for(config.loop.seed, step, "modality"))
        timesteps = draw_timesteps(config.batch, generator, config.timestep_bias)
        noise = torch.randn(clean.shape, generator=generator)
        null = torch.rand(config.batch, generator=generator) < config.cfg_dropout
        if config.objective == "regression":
            timesteps = torch.full_like(timesteps, TIMESTEPS - 1)
        return LatentBatch(
            None if without_face else face, None if without_image else image, clean, noise, timesteps, null
        )

    def loss(self, module: nn.Module, batch: LatentBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a micro-batch, and the ΔW terms. See `training.engine.batches_ahead.Objective`."""
        config, device = self.config, next(module.parameters()).device
        face, image = (e if e is None else e.to(device, non_blocking=True) for e in (batch.face, batch.image))
        clean, noise, timesteps, null = (
            tensor.to(device, non_blocking=True) for tensor in (batch.clean, batch.noise, batch.timesteps, batch.null)
        )
        if config.objective == "regression":
            noisy, weight = torch.zeros_like(clean), torch.ones(config.batch, device=device)
        else:
            schedule = self.schedule.to(device)
            noisy = schedule.add_noise(clean, noise, timesteps)
            weight = schedule.weight(timesteps, config.min_snr_gamma)
        predicted = module(noisy, timesteps, face, image, null)
        loss = (weight * (predicted - clean).square().mean((1, 2))).mean()
        if self.delta_weight_loss is None:
            return loss, {}
        extra, metrics = self.delta_weight_loss(predicted, clean, batch.timesteps)
        return loss + extra, metrics

    def draw_people(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw face and image embeddings (batch, width) and clean latents (batch, tokens, width), some blended."""
        latents, conditions, config = self.people.latents, self.people.conditions, self.config
        people, others = torch.randint(0, len(latents), (2, config.batch), generator=generator)
        counts = torch.randint(1, config.max_references + 1, (config.batch,), generator=generator)
        amount = 0.5 * torch.rand(config.batch, generator=generator)
        amount = amount * (torch.rand(config.batch, generator=generator) < config.blend)

        def references(embeddings: Tensor) -> Tensor:
            one, other = (
                draw_references(embeddings, who, counts, config.embedding_noise, generator, conditions.counts)
                for who in (people, others)
            )
            return F.normalize(torch.lerp(one, other, amount[:, None]), dim=-1)

        face, image = references(conditions.face), references(conditions.image)
        clean = latents.index_select(0, people)
        if len(blended := amount.nonzero()[:, 0]):
            share = amount[blended, None, None]
            clean[blended] = torch.lerp(clean[blended], latents[others[blended]], share)
        return face, image, clean
