"""Rounds: the best is kept, and training stops when it has been getting worse for long enough."""

import pytest
import torch

from training.engine.loop import TrainConfig
from training.engine.rounds import train_in_rounds

LOOP = TrainConfig(steps=60, learning_rate=0.1, warmup=1, ema=0.0)


def run(folder, scores, patience, **more):
    """Train a single number downward; validation says what `scores` says. Returns what was reported, and the number."""
    torch.manual_seed(0)
    module, told, values = torch.nn.Linear(1, 1, bias=False), {}, iter(scores)

    def loss(module, step, generator):
        return module.weight.sum(), {}

    validate = lambda: {"r2": next(values)}  # noqa: E731
    train_in_rounds(module, loss, LOOP, folder, "number", 6, dict, validate, told.__setitem__, patience, **more)
    return told, float(module.weight.detach())


def test_stops_when_it_has_not_improved_for_so_many_rounds(tmp_path):
    told, number = run(tmp_path / "stopped", [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], patience=2)
    assert list(told) == ["step 10", "step 20", "step 30", "step 40"]
    _, shorter = run(tmp_path / "shorter", [0.1, 0.5, 0.4, 0.3, 0.2, 0.1], patience=None)
    assert number == shorter, "both keep the second round"


def test_a_stopped_run_does_not_go_on_when_called_again(tmp_path):
    told, number = run(tmp_path, [0.1, 0.5, 0.4, 0.3], patience=2)
    assert run(tmp_path, [], patience=2) == (told, number)


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    run(tmp_path, [0.1] * 6, None, settings={"network": {"width": 1, "depth": 3}})
    with pytest.raises(ValueError, match=r"a run with network.depth 3, the configuration says 4"):
        run(tmp_path, [], None, settings={"network": {"width": 1, "depth": 4}})


def test_the_best_weights_of_another_network_are_refused(tmp_path):
    run(tmp_path, [0.1] * 6, None)
    with pytest.raises(ValueError, match=r"number_best.safetensors .* weight has shape \(1, 1\), expected \(1, 2\)"):
        train_in_rounds(
            torch.nn.Linear(2, 1, bias=False), lambda *_: None, LOOP, tmp_path, "number", 6, dict, dict, print
        )


def test_only_rounds_with_the_deciding_figure_are_candidates(tmp_path):
    torch.manual_seed(0)
    module, told = torch.nn.Linear(1, 1, bias=False), {}
    values = iter([{"r2": 0.9}, {"r2": 0.1, "kept": 0.2}, {"r2": 0.8}, {"r2": 0.1, "kept": 0.1}])

    def loss(module, step, generator):
        return module.weight.sum(), {}

    at = []
    validate = lambda: at.append(float(module.weight.detach())) or next(values)  # noqa: E731
    train_in_rounds(module, loss, LOOP, tmp_path, "number", 4, dict, validate, told.__setitem__, by="kept")
    assert float(module.weight.detach()) == at[1]
