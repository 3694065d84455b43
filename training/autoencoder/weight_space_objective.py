"""The loss of the LoRA autoencoder in weight space: LoRAs are drawn, blended, scaled, and reconstructed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from difflora_core.autoencoder import losses
from difflora_core.autoencoder.model import LAE
from difflora_core.lora.delta_weights import DeltaWeights
from training.engine.batches_ahead import Objective
from training.store.loras import LoRAs

from .config import LAETraining


@dataclass(frozen=True)
class Reconstruction:
    """What the loss terms compare."""

    lae: LAE
    """Whose reconstruction it is."""
    predicted: Tensor
    """Normalized LoRAs (batch, numel)."""
    target: Tensor
    """Normalized LoRAs (batch, numel)."""
    mean: Tensor
    """Standardized latents (batch, tokens, width)."""
    log_variance: Tensor | None
    """Of the latents' posterior, as `mean`; None unless the network is variational."""

    @cached_property
    def flat(self) -> tuple[Tensor, Tensor]:
        """Prediction and target as flat LoRAs."""
        return self.lae.restore(self.predicted), self.lae.restore(self.target)


def _kl(result: Reconstruction, _: DeltaWeights) -> Tensor:
    assert result.log_variance is not None  # `LAEObjective` refuses the term for other networks
    return losses.kl(result.mean, result.log_variance)


TERMS: Mapping[str, Callable[[Reconstruction, DeltaWeights], Tensor]] = {
    "reconstruction": lambda result, delta: losses.reconstruction(result.predicted, result.target),
    "weight_preserved": lambda result, delta: losses.weight_preserved(result.predicted, result.target),
    "delta_w_error": lambda result, delta: delta.relative_error(*result.flat),
    "delta_w_direction": lambda result, delta: delta.direction(*result.flat),
    "spectrum": lambda result, delta: delta.spectrum(*result.flat),
    "kl": _kl,
}
"""The terms by the names of `LossWeights`; formulas and sources are in `difflora_core`."""


class LAEBatch(NamedTuple):
    """What a micro-batch is made of, on the CPU."""

    loras: Tensor
    """Teachers as stored (batch, numel)."""
    others: Tensor | None
    """The second teacher of each blend (blended, numel); None if nothing is blended."""
    blended: Tensor
    """Rows of `loras` that are blended with these, int64 (blended,)."""
    amount: Tensor
    """Share of the second teacher in each blend (blended, 1)."""
    factor: Tensor | None
    """By which each LoRA's deviation from the mean LoRA is multiplied (batch, 1); None leaves it as it is."""
    generator: torch.Generator
    """Draws what the loss still needs: noise on the input, samples of the posterior."""


class LAEObjective(Objective[LAEBatch]):
    """The loss function of an LAE on teachers."""

    def __init__(self, lae: LAE, loras: LoRAs, training: LAETraining) -> None:
        """Check that the settings fit.

        Args:
            lae: What is trained.
            loras: The teachers.
            training: Batch, augmentation, weights of the terms.

        Raises:
            ValueError: A term doesn't fit the network, or a batch has more LoRAs than there are.
        """
        if training.batch > len(loras):
            raise ValueError(
                f"a batch has {training.batch} LoRAs, there are {len(loras)} to train on: lower `batch`, or add people"
            )
        if training.losses.kl and not lae.config.variational:
            raise ValueError("losses.kl needs a variational network: set lae.variational, or losses.kl to 0")
        self.lae, self.loras, self.training = lae, loras, training
        self.weights = training.losses.active()
        self.delta = DeltaWeights(lae.layout)

    def draw(self, step: int, generator: torch.Generator) -> LAEBatch:
        """Draw teachers and their augmentation. See `training.engine.batches_ahead.Objective`."""
        size, settings = self.training.batch, self.training
        first, second = torch.randint(0, len(self.loras), (2, size), generator=generator)
        amount = torch.rand(size, 1, generator=generator)
        amount = amount * (torch.rand(size, 1, generator=generator) < settings.blend)
        factor = (settings.scale * torch.randn(size, 1, generator=generator)).exp() if settings.scale else None
        blended = amount[:, 0].nonzero()[:, 0]
        others = self.loras.read(second[blended].tolist()) if len(blended) else None
        return LAEBatch(self.loras.read(first.tolist()), others, blended, amount[blended], factor, generator)

    def loss(self, module: nn.Module, batch: LAEBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a micro-batch, and its terms. See `training.engine.batches_ahead.Objective`."""
        target = self.augmented(batch)
        # Only a variational network draws; torch.compile can't follow a generator
        posterior_generator = (batch.generator,) if self.lae.config.variational else ()
        predicted, mean, log_variance = module(self._with_noise(target, batch.generator), *posterior_generator)
        result = Reconstruction(self.lae, predicted, target, mean, log_variance)
        delta = self.delta.to(target.device)
        values = {name: TERMS[name](result, delta) for name in self.weights}
        loss = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return loss, {name: value.detach() for name, value in values.items()}

    def augmented(self, batch: LAEBatch) -> Tensor:
        """Compute blended and scaled, normalized LoRAs (batch, numel) on the autoencoder's device."""
        target = self._normalized(batch.loras)
        if batch.others is not None:
            rows = batch.blended.to(target.device, non_blocking=True)
            amount = batch.amount.to(target, non_blocking=True)
            target[rows] = torch.lerp(target[rows], self._normalized(batch.others), amount)
        return target if batch.factor is None else target * batch.factor.to(target, non_blocking=True)

    def _normalized(self, loras: Tensor) -> Tensor:
        return self.lae.normalize(loras.to(self.lae.mean.device, non_blocking=True))

    def _with_noise(self, target: Tensor, generator: torch.Generator) -> Tensor:
        if not self.training.noise:
            return target
        if target.device.type != "cpu":  # millions of values: drawn where they are needed
            seed = int(torch.randint(0, 2**62, (), generator=generator))
            generator = torch.Generator(target.device).manual_seed(seed)
        noise = torch.randn(target.shape, generator=generator, device=target.device)
        return target + self.training.noise * noise
