"""Rounds: the best is kept, and training stops when it has been getting worse for long enough."""

import torch

from training.rounds import train_in_rounds
from training.training_loop import TrainConfig

LOOP = TrainConfig(steps=60, learning_rate=0.1, warmup=1, ema=0.0)


def run(folder, scores, patience):
    """Train a single number downward; validation says what `scores` says. Returns what was reported, and the number."""
    torch.manual_seed(0)
    module, told, values = torch.nn.Linear(1, 1, bias=False), {}, iter(scores)

    def loss(module, step, generator):
        return module.weight.sum(), {}

    validate = lambda: {"r2": next(values)}  # noqa: E731
    train_in_rounds(module, loss, LOOP, folder, "number", 6, dict, validate, told.__setitem__, patience)
    return told, float(module.weight.detach())


def test_stops_when_it_has_not_improved_for_so_many_rounds(tmp_path):
    told, number = run(tmp_path / "stopped", [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], patience=2)
    assert list(told) == ["step 10", "step 20", "step 30", "step 40"]
    _, shorter = run(tmp_path / "shorter", [0.1, 0.5, 0.4, 0.3, 0.2, 0.1], patience=None)
    assert number == shorter, "both keep the second round"


def test_a_stopped_run_does_not_go_on_when_called_again(tmp_path):
    told, number = run(tmp_path, [0.1, 0.5, 0.4, 0.3], patience=2)
    assert run(tmp_path, [], patience=2) == (told, number)
