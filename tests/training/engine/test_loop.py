"""The training loop: resumption bit for bit, several processes, precision, logs, and errors that lose nothing."""

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch._dynamo.utils
from accelerate.utils import LoggerType

from difflora_core.files import read_tensors
from difflora_core.seeds import generator_for
from training.engine import accelerator as engine_accelerator
from training.engine.config import TrainConfig
from training.engine.loop import DivergedError, append_line, cut_log, train

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("killed_run.py")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(folder: Path) -> torch.Tensor:
    return _module(PROGRAM).run(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_and_resumed_is_the_same_bit_for_bit(tmp_path):
    through = _run(tmp_path / "through")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, PROGRAM, tmp_path / "killed", "7"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "line.safetensors").exists()
    assert torch.equal(_run(tmp_path / "killed"), through)


def test_what_a_killed_run_logged_after_its_state_is_logged_once(tmp_path):
    path, lines = tmp_path / "line.jsonl", [f'{{"step": {step}, "loss": 1.0}}\n' for step in (20, 40, 60)]
    cut_log(path, 0)
    assert not path.exists()
    path.write_text("".join(lines) + '{"step": 20')  # the last line was not written to its end
    cut_log(path, 45)
    assert path.read_text() == "".join(lines[:2])


def test_a_finished_run_is_not_run_again(tmp_path):
    first = _run(tmp_path)
    written = (tmp_path / "line.safetensors").stat().st_mtime_ns
    assert torch.equal(_run(tmp_path), first)
    assert (tmp_path / "line.safetensors").stat().st_mtime_ns == written


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_workers_do_not_outlive_a_killed_command(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = subprocess.Popen([sys.executable, PROGRAM.with_name("orphaned_workers.py"), tmp_path], env=environment)
    files = [tmp_path / f"worker_{rank}" for rank in (0, 1)]
    try:
        _wait_for(lambda: all(file.exists() for file in files))
    finally:
        command.kill()
        command.wait()
    workers = [int(file.read_text()) for file in files]
    _wait_for(lambda: not any(_runs(worker) for worker in workers))


def _wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return not (Path(f"/proc/{process}/stat").exists() and ") Z " in Path(f"/proc/{process}/stat").read_text())


two_process_run = _module(PROGRAM.with_name("two_process_run.py"))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The state that a run in two processes leaves."""
    folder = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, PROGRAM.with_name("two_process_run.py"), folder], env=environment, check=True)
    return read_tensors(folder / "net.safetensors")[0]


def _state(folder: Path, loss, **changed) -> dict[str, torch.Tensor]:
    train(two_process_run.network(), loss, replace(two_process_run.CONFIG, **changed), folder, "net")
    return read_tensors(folder / "net.safetensors")[0]


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_two_processes_are_one_with_twice_the_batch(tmp_path, two_processes):
    def loss(module, step, generator):
        micro_batches = [
            two_process_run.batch(generator_for(two_process_run.CONFIG.seed, step, number)) for number in (0, 1)
        ]
        return two_process_run.loss(module, torch.cat(micro_batches))

    _same(two_processes, _state(tmp_path, loss))


def test_two_processes_are_one_that_accumulates_two_micro_batches(tmp_path, two_processes):
    _same(
        two_processes,
        _state(tmp_path, lambda m, step, g: two_process_run.loss(m, two_process_run.batch(g)), accumulate=2),
    )


def test_micro_batches_differ(tmp_path, two_processes):
    once = _state(tmp_path, lambda m, step, g: two_process_run.loss(m, two_process_run.batch(g)))
    assert not torch.allclose(once["model.0.weight"], two_processes["model.0.weight"], rtol=1e-4)


def test_accumulating_runs_resume_bit_for_bit(tmp_path):
    def loss(module, step, generator):
        return two_process_run.loss(module, two_process_run.batch(generator))

    config = replace(two_process_run.CONFIG, accumulate=3, mixed_precision="bf16")
    for folder, stops in (("through", (8,)), ("again", (3, 8))):
        for until in stops:
            train(two_process_run.network(), loss, config, tmp_path / folder, "net", until=until)
    through, again = (read_tensors(tmp_path / folder / "net.safetensors")[0] for folder in ("through", "again"))
    assert all(torch.equal(through[name], again[name]) for name in through)


def test_bf16_is_for_the_forward_pass_alone(tmp_path):
    network, seen = two_process_run.network(), []
    network[0].register_forward_hook(lambda module, given, output: seen.append(output.dtype))

    def loss(module, step, generator):
        return two_process_run.loss(module, two_process_run.batch(generator))

    train(network, loss, replace(two_process_run.CONFIG, mixed_precision="bf16"), tmp_path, "net")
    assert set(seen) == {torch.bfloat16}
    tensors, _ = read_tensors(tmp_path / "net.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert network(torch.zeros(1, 3)).dtype == torch.float32
    assert seen[-1] == torch.float32, "the module is given back as it came"


def test_trackers_get_what_the_log_has(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def loss(module, step, generator):
        value, _ = two_process_run.loss(module, two_process_run.batch(generator))
        return value, {"half": value.detach() / 2}

    config = replace(two_process_run.CONFIG, steps=40, log_with=("tensorboard",))
    train(two_process_run.network(), loss, config, tmp_path, "net")
    lines = [json.loads(line) for line in (tmp_path / "net.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "net")).Reload()
    assert [line["step"] for line in lines] == [20, 40]
    for name in ("loss", "half"):
        tracked = [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]
        assert [(line["step"], line[name]) for line in lines] == tracked


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    config = replace(two_process_run.CONFIG, log_with=("tensorboard", "wandb"))
    with pytest.raises(ValueError, match="log_with names wandb, which is not installed"):
        train(two_process_run.network(), _line, config, tmp_path, "net")


def _line(module, step, generator):
    return two_process_run.loss(module, two_process_run.batch(generator))


def test_a_full_disk_leaves_the_state_before_it_whole(tmp_path, monkeypatch):
    train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net", until=4)
    before = (tmp_path / "net.safetensors").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="the disk is full, so the state of step 8 could not be written") as caught:
            train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net")
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    assert (tmp_path / "net.safetensors").read_bytes() == before
    train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net")
    assert read_tensors(tmp_path / "net.safetensors")[1]["step"] == "8"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_full_disk_while_logging_names_the_log():
    with pytest.raises(OSError, match=r"log was not continued; the last state is kept: free some space.*/dev/full"):
        append_line(Path("/dev/full"), "{}")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.nn.Sequential(torch.nn.Linear(3, 9), torch.nn.Linear(9, 1)), r"0.weight has shape \(8, 3\), expected"),
        (torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 1)), r"has no tensor 1.weight"),
        (torch.nn.Sequential(torch.nn.Linear(3, 8)), r"also has a tensor 2.bias"),
    ],
    ids=["shape", "missing", "extra"],
)
def test_the_state_of_another_network_is_refused(tmp_path, other, message):
    train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net", until=1)
    with pytest.raises(ValueError, match=message):
        train(other, _line, two_process_run.CONFIG, tmp_path, "net")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path):
    train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net", until=4)
    before = (tmp_path / "net.safetensors").read_bytes()

    def broken(module, step, generator):
        value, _ = _line(module, step, generator)
        return value * float("nan"), {}

    with pytest.raises(DivergedError, match="the loss of net is nan at step 8"):
        train(two_process_run.network(), broken, two_process_run.CONFIG, tmp_path, "net")
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path):
    """In the last step before a state is written, when the loss still was finite: else it would keep NaN."""
    train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net", until=4)
    before = (tmp_path / "net.safetensors").read_bytes()

    def broken(module, step, generator):
        value, _ = _line(module, step, generator)
        return value + (value * float("inf" if step == 7 else 1)).clamp(max=0), {}  # its gradient: 0 · ∞

    with pytest.raises(DivergedError, match="at step 8 the weights of net are not finite, because a gradient was not"):
        train(two_process_run.network(), broken, two_process_run.CONFIG, tmp_path, "net")
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_in_another_process_keeps_the_state(tmp_path, monkeypatch):
    train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net", until=4)
    before = (tmp_path / "net.safetensors").read_bytes()
    accelerator = engine_accelerator.open_accelerator(two_process_run.CONFIG)
    monkeypatch.setattr(accelerator, "reduce", lambda loss, _: loss * float("nan"))  # the mean of all processes
    with pytest.raises(DivergedError, match="the loss of net is nan at step 8"):
        train(two_process_run.network(), _line, two_process_run.CONFIG, tmp_path, "net", accelerator=accelerator)
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_a_compiled_module_trains_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_accelerator, "COMPILER", "aot_eager")  # inductor's own compiler takes twenty seconds
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    plain = _state(tmp_path / "plain", _line)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    _same(_state(tmp_path / "compiled", _line, compile=True), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs


@pytest.mark.parametrize("wrong", [{"accumulate": 0}, {"learning_rate": 0.0}, {"ema": 1.0}, {"clip": 0.0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**{"steps": 1, "learning_rate": 0.1, **wrong})
