"""Train the LoRA autoencoder: start at principal components, accept only what validation people confirm.

A thousand LoRAs of 84,224 numbers are few, so a free network soon learns them by heart. Three things keep it honest:
it starts at PCA quality (`LAE.fit`), it sees blends of two people instead of people (all teachers share one start, so
a blend is a plausible teacher), and the weights with the lowest validation error are kept, be they the first.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from difflora_core.lae import LAE, LAEConfig
from difflora_core.layout import LoRALayout
from difflora_core.losses import DeltaWeights, reconstruction, weight_preserved

from .rounds import Figures, Report, train_in_rounds
from .training_loop import TrainConfig


@dataclass(frozen=True)
class LAETraining:
    """Weights of the loss terms and the augmentation. blend: share of samples that are a blend of two people.
    noise: deviation added to the input, in units of the factor's scale. rounds: validations; the best is kept."""

    loop: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=600, learning_rate=3e-4, warmup=50, weight_decay=0.01, ema=0.99)
    )
    batch: int = 32
    reconstruction: float = 1.0
    weight_preserved: float = 0.5
    blend: float = 0.5
    noise: float = 0.0
    rounds: int = 6


class _Reconstruct(nn.Module):
    def __init__(self, lae: LAE) -> None:
        super().__init__()
        self.lae = lae

    def forward(self, numbers: Tensor) -> Tensor:
        return self.lae.network.decode(self.lae.network.encode(numbers))


@torch.no_grad()
def validate(lae: LAE, loras: Tensor) -> dict[str, float]:
    """R² of normalised numbers and mean cosine of ΔW against the mean LoRA, on LoRAs (people, numel)."""
    numbers = lae.normalise(loras)
    error = lae.network.decode(lae.network.encode(numbers)) - numbers
    decoded = lae.restore(numbers + error)
    cosine = DeltaWeights(lae.layout).cosine(decoded, loras, lae.mean).mean()
    return {"r2": float(1 - error.square().sum() / numbers.square().sum()), "delta_w_cosine": float(cosine)}


def train_lae(
    loras: Tensor,
    validation: Tensor,
    layout: LoRALayout,
    config: LAEConfig,
    training: LAETraining,
    folder: Path,
    report: Report,
) -> LAE:
    """Train on LoRAs (people, numel) float32; resumable in folder/lae.safetensors.

    report(name, figures) is told of the start, with PCA at the same budget beside it, and of every round.
    """
    with torch.random.fork_rng(devices=[]):  # modules can draw their first weights from the global generator only
        torch.manual_seed(training.loop.seed)
        lae = LAE(layout, config)
    numbers = torch.empty(0)

    def prepare() -> dict[str, Figures]:
        baseline = LAE(layout, LAEConfig(kind="linear", tokens=config.tokens, width=config.width))
        baseline.fit(loras)
        lae.fit(loras)
        pca = {f"pca_{name}": value for name, value in validate(baseline, validation).items()}
        return {"start": {**validate(lae, validation), **pca}}

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        nonlocal numbers
        if not len(numbers):  # only now the statistics are known
            numbers = lae.normalise(loras)
        first, second = torch.randint(0, len(numbers), (2, training.batch), generator=generator)
        amount = torch.rand(training.batch, 1, generator=generator)
        amount = amount * (torch.rand(training.batch, 1, generator=generator) < training.blend)
        target = torch.lerp(numbers[first], numbers[second], amount)
        seen = target + training.noise * torch.randn(target.shape, generator=generator) if training.noise else target
        predicted = model(seen)
        value = training.reconstruction * reconstruction(predicted, target)
        return value + training.weight_preserved * weight_preserved(predicted, target), {}

    train_in_rounds(
        _Reconstruct(lae),
        loss,
        training.loop,
        folder,
        "lae",
        training.rounds,
        prepare,
        lambda: validate(lae, validation),
        report,
    )
    lae.fit_latents(loras)
    return lae.eval().requires_grad_(False)
