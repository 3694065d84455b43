"""Families of tasks, and MLPs that are adapted to each task in four ways."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.seeds import generator_for

WIDTHS = (8, 24, 24, 4)
"""Of the MLP."""
RANK = 2
"""Of the LoRAs."""
FACTORS = 6
"""Directions in which the tasks of a family differ."""
LAYOUT = LoRALayout(tuple(LoRAModule(f"layer.{i}", a, b) for i, (a, b) in enumerate(pairwise(WIDTHS))), RANK)
SIZES = tuple(a * b for a, b in pairwise(WIDTHS))
"""Weights of each layer."""
BATCH = 32


@dataclass(frozen=True)
class ToySettings:
    """The size of the experiment."""

    tasks: int = 192
    """Tasks that compressors are fitted on."""
    held_out: int = 48
    """Tasks that they are evaluated on."""
    samples: int = 64
    """Of each task."""
    noise: float = 0.1
    """Standard deviation of the samples' noise."""
    steps: int = 150
    """Of each adaptation."""
    autoencoder_steps: int = 60
    """Of each autoencoder's training."""


@dataclass(frozen=True)
class Weights:
    """Weights of one kind, adapted to every task."""

    flat: Tensor
    """(tasks, numel)."""
    groups: tuple[int, ...]
    """Sizes of the parts that are scaled together."""
    base: list[Tensor]
    """A matrix (1, out, in) per layer, to which the change is added."""
    matrices: Callable[[Tensor], list[Tensor]]
    """Flat weights → the change, (tasks, out, in) per layer."""


def network(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """Apply an MLP with tanh and no biases: x (tasks, samples, in) by matrices (tasks or 1, out, in)."""
    for matrix in matrices[:-1]:
        x = torch.tanh(x @ matrix.mT)
    return x @ matrices[-1].mT


def random_matrices(count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw MLP weights (count, out, in) that preserve the size of activations."""
    return [torch.randn(count, b, a, generator=generator) * 1.5 / a**0.5 for a, b in pairwise(WIDTHS)]


def draw_family(count: int, seed: int) -> list[Tensor]:
    """Draw the true functions of several tasks: a common MLP plus a random mix of `FACTORS` common directions."""
    generator = generator_for(seed, "toy experiment", "family")
    common, directions = random_matrices(1, generator), random_matrices(FACTORS, generator)
    mix = torch.randn(count, FACTORS, generator=generator) * 0.5 / FACTORS**0.5
    return [base + torch.einsum("tf,foi->toi", mix, moves) for base, moves in zip(common, directions, strict=True)]


def descend(parameters: list[Tensor], loss: Callable[[], Tensor], steps: int, learning_rate: float) -> None:
    """Minimize a loss by AdamW without decay, with a cosine schedule; parameters change in place."""
    optimizer = torch.optim.AdamW([p.requires_grad_() for p in parameters], lr=learning_rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


def task_loss(tasks: list[Tensor], base: list[Tensor], changes: list[Tensor], x: Tensor) -> Tensor:
    """Return the mean squared error (tasks,) of base + changes on new noiseless samples x."""
    own = [matrix + change for matrix, change in zip(base, changes, strict=True)]
    return (network(x, own) - network(x, tasks)).square().mean((1, 2))


def train_base(tasks: list[Tensor], steps: int, seed: int) -> list[Tensor]:
    """Train one network (1, out, in) for all tasks: the average of the family."""
    generator = generator_for(seed, "toy experiment", "base")
    base = [0.7 * matrix for matrix in random_matrices(1, generator)]

    def loss() -> Tensor:
        x = torch.randn(len(tasks[0]), 8, WIDTHS[0], generator=generator)
        return (network(x, base) - network(x, tasks)).square().mean()

    descend(base, loss, 4 * steps, 5e-3)
    return base


def adapt(tasks: list[Tensor], base: list[Tensor], settings: ToySettings, seed: int) -> dict[str, Weights]:
    """Adapt weights of every kind to every task, on the same samples, all tasks at once."""
    generator, count = generator_for(seed, "toy experiment", "adapt"), len(tasks[0])
    x = torch.randn(count, settings.samples, WIDTHS[0], generator=generator)
    y = network(x, tasks)
    y = y + settings.noise * torch.randn(y.shape, generator=generator)

    def fit(weights: Weights, learning_rate: float, steps: int) -> Weights:
        def loss() -> Tensor:
            rows = torch.randint(settings.samples, (BATCH,), generator=generator)
            own = [matrix + change for matrix, change in zip(weights.base, weights.matrices(weights.flat), strict=True)]
            return (network(x[:, rows], own) - y[:, rows]).square().mean((1, 2)).sum()

        descend([weights.flat], loss, steps, learning_rate)
        return weights

    def full(flat: Tensor, start: list[Tensor]) -> Weights:
        return Weights(flat, SIZES, start, _unpack)

    def lora(flat: Tensor) -> Weights:
        return Weights(flat, LAYOUT.factor_sizes, base, _products)

    networks = torch.cat([0.7 * matrix.flatten(1) for matrix in random_matrices(count, generator)], dim=1)
    return {
        "full": fit(full(torch.zeros(count, sum(SIZES)), base), 3e-3, settings.steps),
        "LoRA": fit(lora(_random_loras(1, generator).repeat(count, 1)), 1e-2, settings.steps),
        "full, own starts": fit(full(networks, [matrix * 0 for matrix in base]), 5e-3, 2 * settings.steps),
        "LoRA, own starts": fit(lora(_random_loras(count, generator)), 1e-2, settings.steps),
    }


def _unpack(flat: Tensor) -> list[Tensor]:
    """Flat weights (tasks, numel) as matrices (tasks, out, in)."""
    return [part.view(len(flat), b, a) for part, (a, b) in zip(flat.split(SIZES, dim=1), pairwise(WIDTHS), strict=True)]


def _products(flat: Tensor) -> list[Tensor]:
    """ΔW (tasks, out, in) of LoRAs (tasks, numel)."""
    return [up @ down for down, up in LAYOUT.unflatten(flat).values()]


def _random_loras(count: int, generator: torch.Generator) -> Tensor:
    """Random down factors, up factors of zeros: (count, numel)."""
    factors = {
        module.name: (
            torch.randn(count, RANK, module.in_features, generator=generator) / module.in_features**0.5,
            torch.zeros(count, module.out_features, RANK),
        )
        for module in LAYOUT.modules
    }
    return LAYOUT.flatten(factors)
