"""A run that the caller evaluates: the best weights are kept, bad runs stop early, other runs are not resumed."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from difflora_core.files import read_tensors, write_tensors
from training.engine.config import EvaluationConfig, TrainConfig
from training.engine.evaluated_run import EvaluatedRun, load_best_of_run

LOOP = TrainConfig(steps=60, learning_rate=0.1, warmup=1, ema=0.0)


def loss(module, step, generator):
    return module.weight.sum(), {}


def number() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(1, 1, bias=False)


def run(folder, metrics, patience=None, interval=10, monitor="r2", settings=None):
    """Train one weight downward; evaluations return `metrics`. Returns the history and the weight that is kept."""
    module, values = number(), iter(metrics)
    evaluation = EvaluationConfig(interval, monitor, patience)
    with EvaluatedRun(module, loss, LOOP, evaluation, folder, "number", settings) as training:
        for step in training:
            training.record(step, next(values))
        training.load_best()
    return training.history, float(module.weight.detach())


def run_until_stopped(folder, metrics):
    """Train and record; `next` raises StopIteration when there are no more metrics, in the middle of the run."""
    with EvaluatedRun(number(), loss, LOOP, EvaluationConfig(interval=10), folder, "number") as training:
        for step in training:
            training.record(step, next(metrics))


def r2(*values):
    return [{"r2": value} for value in values]


def test_it_stops_after_so_many_evaluations_without_improvement(tmp_path):
    history, weight = run(tmp_path / "stopped", r2(0.1, 0.5, 0.4, 0.3, 0.9, 0.9), patience=2)
    assert list(history) == [10, 20, 30, 40]
    _, trained_on = run(tmp_path / "trained_on", r2(0.1, 0.5, 0.4, 0.3, 0.2, 0.1))
    assert weight == trained_on, "both keep the second evaluation"


def test_a_stopped_run_does_not_go_on_when_called_again(tmp_path):
    result = run(tmp_path, r2(0.1, 0.5, 0.4, 0.3), patience=2)
    assert run(tmp_path, [], patience=2) == result


def test_a_finished_run_is_read(tmp_path):
    history, weight = run(tmp_path, r2(*[0.1] * 6))
    module = number()
    assert load_best_of_run(module, tmp_path, "number") == history
    assert float(module.weight.detach()) == weight


def test_the_last_step_is_evaluated_too(tmp_path):
    history, _ = run(tmp_path, r2(0.1, 0.2, 0.3), interval=25)
    assert list(history) == [25, 50, 60]


@pytest.mark.parametrize(("start", "kept"), [(0.9, True), (0.0, False)])
def test_the_start_is_a_candidate_if_it_is_recorded(tmp_path, start, kept):
    module, evaluation = number(), EvaluationConfig(interval=60)
    before = float(module.weight.detach())
    with EvaluatedRun(module, loss, LOOP, evaluation, tmp_path, "number") as training:
        assert training.is_new
        training.record(0, {"r2": start})
        for step in training:
            training.record(step, {"r2": 0.5})
        training.load_best()
    assert (float(module.weight.detach()) == before) == kept
    assert list(training.history) == [0, 60]


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path):
    through = run(tmp_path / "through", r2(0.1, 0.5, 0.4, 0.6, 0.2, 0.1))
    values = iter(r2(0.1, 0.5))
    with pytest.raises(StopIteration, match=r"^$"):
        run_until_stopped(tmp_path / "again", values)
    assert run(tmp_path / "again", r2(0.4, 0.6, 0.2, 0.1)) == through


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    run(tmp_path, r2(*[0.1] * 6), settings={"network": {"width": 1, "depth": 3}})
    with pytest.raises(ValueError, match=r"a run with network.depth 3, the configuration says 4"):
        run(tmp_path, [], settings={"network": {"width": 1, "depth": 4}})


def begin(folder, accumulate):
    """Train a run to its first evaluation, or go on with it to the next one."""
    loop = replace(LOOP, accumulate=accumulate)
    settings = {"loop": {"accumulate": accumulate}}
    with EvaluatedRun(number(), loss, loop, EvaluationConfig(interval=10), folder, "number", settings) as training:
        step = next(iter(training))
        training.record(step, {"r2": 0.1})
    return step


def test_a_step_keeps_its_micro_batches_whatever_the_processes(tmp_path, monkeypatch):
    assert begin(tmp_path, 4) == 10
    with pytest.raises(
        ValueError, match=r"a run with 4 micro-batches .* has 1 \(processes: 1, loop.accumulate: 1\): set .* to 4"
    ):
        begin(tmp_path, 1)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 3))
    with pytest.raises(ValueError, match=r"has 3 .*: start a number of processes that divides 4"):
        begin(tmp_path, 1)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    assert begin(tmp_path, 2) == 20


def test_a_record_without_micro_batches_is_compared_by_accumulate(tmp_path):
    begin(tmp_path, 4)
    path = tmp_path / "number_best.safetensors"
    tensors, metadata = read_tensors(path)
    settings = json.loads(metadata["settings"])
    del settings["micro_batches"]
    write_tensors(path, tensors, {**metadata, "settings": json.dumps(settings)})
    with pytest.raises(ValueError, match=r"a run with loop.accumulate 4, the configuration says 1"):
        begin(tmp_path, 1)
    assert begin(tmp_path, 4) == 20


def test_the_best_weights_of_another_network_are_refused(tmp_path):
    run(tmp_path, r2(*[0.1] * 6))
    with pytest.raises(ValueError, match=r"number_best.safetensors .* weight has shape \(1, 1\), expected \(1, 2\)"):
        EvaluatedRun(torch.nn.Linear(2, 1, bias=False), loss, LOOP, EvaluationConfig(), tmp_path, "number")


def test_a_damaged_history_is_named(tmp_path):
    run(tmp_path, r2(*[0.1] * 6))
    path = tmp_path / "number_best.safetensors"
    write_tensors(path, read_tensors(path)[0], {"history": "[1"})
    with pytest.raises(ValueError, match=r"number_best\.safetensors: the history of its metrics is not JSON"):
        EvaluatedRun(number(), loss, LOOP, EvaluationConfig(), tmp_path, "number")


def test_a_run_whose_monitored_metric_was_never_measured_is_no_result(tmp_path):
    """Else the weights of the start would be taken for trained ones."""
    with pytest.raises(ValueError, match=r"teacher_recovery was not measured in any of 6 .* measured were r2\."):
        run(tmp_path, r2(*[0.1] * 6), monitor="teacher_recovery")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_no_candidate(tmp_path, broken):
    """Whatever comes after a NaN is not above it, so that the untrained weights would be kept."""
    _, weight = run(tmp_path / "first", r2(broken, 0.5, broken), interval=20)
    _, second = run(tmp_path / "plain", r2(0.1, 0.5, 0.4), interval=20)
    assert weight == second
    with pytest.raises(ValueError, match=r"r2 was not measured in any of 1 evaluations, or is not finite, so that no"):
        run(tmp_path / "all", r2(broken), interval=60)


def test_only_evaluations_with_the_monitored_metric_are_candidates(tmp_path):
    metrics = [{"r2": 0.9}, {"r2": 0.1, "teacher_recovery": 0.2}, {"r2": 0.8}, {"r2": 0.1, "teacher_recovery": 0.1}]
    _, weight = run(tmp_path / "mixed", metrics, interval=15, monitor="teacher_recovery")
    _, second = run(tmp_path / "plain", r2(0.0, 1.0, 0.0, 0.0), interval=15)
    assert weight == second


def test_evaluations_are_printed_also_when_a_run_is_resumed(tmp_path, capsys):
    run(tmp_path, r2(0.25, 0.5, 0.1), interval=20)
    printed = capsys.readouterr().out
    assert printed.splitlines()[1] == "  number, step 40: r2 0.5"
    run(tmp_path, [], interval=20)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"patience": 0}])
def test_intervals_and_patience_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        EvaluationConfig(**wrong)
