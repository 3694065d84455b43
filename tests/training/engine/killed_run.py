"""Trains a line and kills itself without warning: what test_loop runs as a process of its own."""

import os
import signal
import sys
from pathlib import Path

import torch

from training.engine.config import TrainConfig
from training.engine.loop import train

CONFIG = TrainConfig(steps=12, learning_rate=0.1, warmup=2, save_every=4)


def run(folder: Path, kill_at: int | None = None) -> torch.Tensor:
    """Train to the end, or to a hard kill at a step; the trained weights."""

    def loss(module, step, generator):
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(8, 3, generator=generator)
        line = module["often" if step % 3 else "seldom"]  # a parameter without a gradient in most steps
        return (line(x) - x.sum(1, keepdim=True)).square().mean(), {}

    torch.manual_seed(0)
    module = torch.nn.ModuleDict({name: torch.nn.Linear(3, 1) for name in ("often", "seldom", "never")})
    module["often"].bias.requires_grad_(False)
    train(module, loss, CONFIG, folder, "line")
    return torch.cat([line.weight.detach() for line in module.values()])


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
