"""What a dry run counts beside the network that is trained."""

from pathlib import Path

import torch
from torch import nn

from training.engine.config import TrainConfig
from training.engine.step_cost import measure_activations, measure_step

LOOP = TrainConfig(steps=1, learning_rate=0.1, warmup=0)


def test_frozen_networks_are_counted_once(tmp_path: Path, monkeypatch) -> None:
    """The backward pass keeps a frozen layer's weights, which are there anyway."""
    monkeypatch.chdir(tmp_path)
    module, frozen = nn.Linear(3, 8), nn.Linear(8, 5).requires_grad_(False)

    def loss(model, step, generator):
        return frozen(model(torch.ones(2, 3))).square().mean(), {}

    weights = 4 * sum(parameter.numel() for parameter in frozen.parameters())
    alone, together = measure_activations(module, loss, LOOP), measure_activations(module, loss, LOOP, [frozen])
    assert alone - together == 4 * frozen.weight.numel()
    cost = measure_step(module, loss, LOOP, 2, frozen={"U-Net": frozen})
    assert cost.memory["U-Net"] == weights
    assert cost.memory["activations"] == together
    assert list(tmp_path.iterdir()) == []
