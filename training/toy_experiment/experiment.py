"""The paper's toy experiment, rebuilt: are LoRA weights easier to compress than full weight changes?

    python -m training toy-experiment --out output/toy_experiment

The paper says that LoRAs are easier to compress than the weights of an MLP, and gives no set-up, so this one is ours.
A small MLP is trained on the average of a family of tasks, each of which is the function of another MLP whose weights
were moved along a few directions of the family. Every task is then learned from a few noisy samples of it, four times:

    full              all matrices free, from the average network
    LoRA              a LoRA of the average network; all tasks begin with the same A, as DreamBooth is done here
    full, own starts  all matrices free, from random weights of the task's own
    LoRA, own starts  a LoRA of the average network; every task begins with an A of its own

Each kind of weights is compressed by principal components and by the LAE's convolutions, fitted on some tasks and
judged on others: what share of the spread of the matrices around their mean is lost (for a LoRA those of ΔW), and what
share of the gain in task loss is kept. At equal ratio (numbers of a kind : latent numbers) and at equal latent.

What came out, with the defaults: the paper's claim holds against networks that begin each from weights of its own,
which hardly compress at all; it doesn't hold against full changes of one common network, which compressed better than
LoRAs at every ratio and latent. A common start is what makes either compressible: without one, LoRAs lost about as much
at equal ratio as networks do.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.autoencoder.baselines import LinearAutoencoder
from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.conv import ConvAutoencoder
from difflora_core.files import replacing
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.engine.charts import draw_panels

from .report import COMPRESSORS, Entries, latents_of, panels, table

WIDTHS = (8, 24, 24, 4)  # of the MLP
RANK = 2
FACTORS = 6  # in which the tasks of a family differ


@dataclass(frozen=True)
class ToySettings:
    """tasks: to fit on; held_out: to judge on. samples: of each task, with so much noise; steps: of each training."""

    tasks: int = 192
    held_out: int = 48
    samples: int = 64
    noise: float = 0.1
    steps: int = 150
    autoencoder_steps: int = 60


@dataclass(frozen=True)
class Weights:
    """Weights of one kind. flat: (tasks, numel). pieces: sizes of what is scaled together. base: a matrix (1, out, in)
    per layer. matrices: flat numbers → what is added to it, (tasks, out, in) per layer.
    """

    flat: Tensor
    pieces: tuple[int, ...]
    base: list[Tensor]
    matrices: Callable[[Tensor], list[Tensor]]


def network(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """An MLP with tanh and no biases: x (tasks, samples, in) by matrices (tasks or 1, out, in)."""
    for matrix in matrices[:-1]:
        x = torch.tanh(x @ matrix.mT)
    return x @ matrices[-1].mT


def random_matrices(count: int, generator: torch.Generator) -> list[Tensor]:
    """MLP weights (count, out, in) that keep the size of what goes through."""
    return [torch.randn(count, b, a, generator=generator) * 1.5 / a**0.5 for a, b in pairwise(WIDTHS)]


def family(count: int, seed: int) -> list[Tensor]:
    """The true functions of so many tasks: a common MLP plus a random mix of `FACTORS` common directions."""
    generator = torch.Generator().manual_seed(seed)
    common, directions = random_matrices(1, generator), random_matrices(FACTORS, generator)
    mix = torch.randn(count, FACTORS, generator=generator) * 0.5 / FACTORS**0.5
    return [base + torch.einsum("tf,foi->toi", mix, moves) for base, moves in zip(common, directions, strict=True)]


def descend(parameters: list[Tensor], loss: Callable[[int], Tensor], steps: int, learning_rate: float) -> None:
    """AdamW without decay, cosine schedule; parameters change in place."""
    optimizer = torch.optim.AdamW([p.requires_grad_() for p in parameters], lr=learning_rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


def task_loss(tasks: list[Tensor], base: list[Tensor], changes: list[Tensor], x: Tensor) -> Tensor:
    """Mean squared error (tasks,) of base + changes on new noiseless samples x."""
    own = [b + change for b, change in zip(base, changes, strict=True)]
    return (network(x, own) - network(x, tasks)).square().mean((1, 2))


def train_base(tasks: list[Tensor], steps: int, generator: torch.Generator) -> list[Tensor]:
    """One network (1, out, in) for all tasks: it learns their average."""
    base = [0.7 * matrix for matrix in random_matrices(1, generator)]

    def loss(step: int) -> Tensor:
        x = torch.randn(len(tasks[0]), 8, WIDTHS[0], generator=generator)
        return (network(x, base) - network(x, tasks)).square().mean()

    descend(base, loss, 4 * steps, 5e-3)
    return base


def learn(tasks: list[Tensor], base: list[Tensor], settings: ToySettings, seed: int) -> dict[str, Weights]:
    """Weights of every kind for every task, from the same samples, tasks side by side."""
    generator = torch.Generator().manual_seed(seed)
    count = len(tasks[0])
    x = torch.randn(count, settings.samples, WIDTHS[0], generator=generator)
    y = network(x, tasks)
    y = y + settings.noise * torch.randn(y.shape, generator=generator)
    layout = LoRALayout(tuple(LoRAModule(f"layer.{i}", a, b) for i, (a, b) in enumerate(pairwise(WIDTHS))), RANK)
    sizes = [matrix[0].numel() for matrix in base]

    def unpack(flat: Tensor) -> list[Tensor]:
        parts = flat.split(sizes, dim=1)
        return [part.view(len(flat), *matrix.shape[1:]) for part, matrix in zip(parts, base, strict=True)]

    def products(flat: Tensor) -> list[Tensor]:
        return [up @ down for down, up in layout.unflatten(flat).values()]

    def fit(kind: str, flat: Tensor, learning_rate: float, rounds: int) -> Weights:
        lora = kind.startswith("LoRA")
        scratch = kind == "full, own starts"
        matrices, pieces = (products, layout.factor_sizes) if lora else (unpack, tuple(sizes))
        own_base = [matrix * 0 for matrix in base] if scratch else base

        def loss(step: int) -> Tensor:
            rows = torch.randint(settings.samples, (32,), generator=generator)
            own = [b + change for b, change in zip(own_base, matrices(flat), strict=True)]
            return (network(x[:, rows], own) - y[:, rows]).square().mean((1, 2)).sum()

        descend([flat], loss, rounds * settings.steps, learning_rate)
        return Weights(flat, pieces, own_base, matrices)

    def starts(people: int) -> Tensor:
        """Random down factors, up factors of zeros: (people, numel)."""
        factors = [
            (torch.randn(people, RANK, a, generator=generator) / a**0.5, torch.zeros(people, b, RANK))
            for a, b in pairwise(WIDTHS)
        ]
        return layout.flatten(dict(zip(layout.names, factors, strict=True)))

    own = [0.7 * matrix for matrix in random_matrices(count, generator)]
    begin = {
        "full": (torch.zeros(count, sum(sizes)), 3e-3, 1),
        "LoRA": (starts(1).repeat(count, 1), 1e-2, 1),
        "full, own starts": (torch.cat([matrix.flatten(1) for matrix in own], dim=1), 5e-3, 2),
        "LoRA, own starts": (starts(count), 1e-2, 1),
    }
    return {kind: fit(kind, flat, rate, rounds) for kind, (flat, rate, rounds) in begin.items()}


def compress(compressor: str, weights: Weights, train: int, latent: int, steps: int, seed: int) -> Tensor:
    """All tasks' weights through a latent of so many numbers, learned from the first `train` tasks: (tasks, numel)."""
    flat = weights.flat
    mean = flat[:train].mean(0)
    pieces = torch.tensor(weights.pieces)
    scale = torch.stack([part.var(0).mean().sqrt() for part in flat[:train].split(weights.pieces, dim=1)])
    scale = scale.clamp_min(1e-8).repeat_interleave(pieces)
    numbers = (flat - mean) / scale
    config = LAEConfig(
        kind="linear" if compressor == "PCA" else "conv", tokens=1, width=latent, chunk=64, channels=16, hidden=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = (LinearAutoencoder if compressor == "PCA" else ConvAutoencoder)(flat.shape[1], config)
    autoencoder.initialize_from(lambda start, stop: numbers[:train, start:stop], train)
    if compressor == "conv":
        generator = torch.Generator().manual_seed(seed)

        def loss(step: int) -> Tensor:
            rows = torch.randint(train, (32,), generator=generator)
            return F.mse_loss(autoencoder.decode(autoencoder.encode(numbers[rows])), numbers[rows])

        descend(list(autoencoder.parameters()), loss, steps, 3e-4)
    with torch.no_grad():
        return autoencoder.decode(autoencoder.encode(numbers)) * scale + mean


def run_seed(settings: ToySettings, seed: int) -> Entries:
    """One entry per kind, compressor and latent: held-out figures."""
    count = settings.tasks + settings.held_out
    tasks = family(count, seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    base = train_base([matrix[: settings.tasks] for matrix in tasks], settings.steps, generator)
    adapted = learn(tasks, base, settings, 2000 + seed)
    others = slice(settings.tasks, count)
    x = torch.randn(settings.held_out, 256, WIDTHS[0], generator=generator)
    own_tasks = [matrix[others] for matrix in tasks]
    none = task_loss(own_tasks, base, [matrix * 0 for matrix in own_tasks], x).mean()
    entries: Entries = []
    for kind, weights in adapted.items():
        deltas = weights.matrices(weights.flat)
        whole = task_loss(own_tasks, weights.base, [delta[others] for delta in deltas], x).mean()
        size = sum((delta[others] - delta[: settings.tasks].mean(0)).square().sum() for delta in deltas)
        for compressor in COMPRESSORS:
            for latent in latents_of(kind, adapted["LoRA"].flat.shape[1], weights.flat.shape[1]):
                made = compress(compressor, weights, settings.tasks, latent, settings.autoencoder_steps, seed)
                again = weights.matrices(made[others])
                error = sum((new - old[others]).square().sum() for new, old in zip(again, deltas, strict=True))
                loss = task_loss(own_tasks, weights.base, again, x).mean()
                entries.append(
                    {
                        "seed": seed,
                        "kind": kind,
                        "compressor": compressor,
                        "latent": latent,
                        "numbers": weights.flat.shape[1],
                        "ratio": weights.flat.shape[1] / latent,
                        "error": float(error / size),
                        "loss": float(loss),
                        "loss_without": float(none),
                        "loss_adapted": float(whole),
                        "kept": float((none - loss) / (none - whole)),
                    }
                )
    return entries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--out", type=Path, default=Path("output/toy_experiment"), help="folder for figure and figures")
    parser.add_argument("--seeds", type=int, default=3, help="families of tasks")
    parser.set_defaults(run=lambda arguments: toy_experiment(arguments.out, arguments.seeds))


def toy_experiment(folder: Path, seeds: int, settings: ToySettings | None = None) -> Entries:
    """Run it; writes toy_experiment.json and toy_experiment.png into the folder and prints the table."""
    if seeds < 1:
        raise ValueError(f"--seeds is at least 1, found {seeds}.")
    torch.set_num_threads(1)
    begun = time.perf_counter()
    settings = settings or ToySettings()
    entries = [entry for seed in range(seeds) for entry in run_seed(settings, seed)]
    with replacing(folder / "toy_experiment.json") as partial:
        partial.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    draw_panels(folder / "toy_experiment.png", panels(entries))
    print(table(entries))
    print(f"{time.perf_counter() - begun:.0f} s; {folder / 'toy_experiment.png'}")
    return entries
