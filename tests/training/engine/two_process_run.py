"""Trains a small network in two processes, each with its own micro-batches: run by test_loop."""

import sys
from pathlib import Path

import torch

from training.engine.config import TrainConfig
from training.engine.loop import train
from training.engine.processes import in_processes

CONFIG = TrainConfig(steps=8, learning_rate=0.03, warmup=2, save_every=4, weight_decay=0.01, ema=0.9)


def network() -> torch.nn.Module:
    """The same start everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def batch(generator: torch.Generator) -> torch.Tensor:
    """A micro-batch (8, 3)."""
    return torch.randn(8, 3, generator=generator)


def loss(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Squared error, the mean over the rows."""
    return (module(x) - x.prod(1, keepdim=True)).square().mean(), {}


def work(rank: int, processes: int, folder: Path) -> None:
    """One of the processes."""
    train(network(), lambda module, step, generator: loss(module, batch(generator)), CONFIG, folder, "net")


if __name__ == "__main__":
    in_processes(work, 2, Path(sys.argv[1]))
