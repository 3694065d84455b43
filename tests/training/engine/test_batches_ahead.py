"""Batches drawn ahead: the same ones, in order; errors arrive once; no thread outlives the run."""

import threading
import traceback
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from difflora_core.seeds import generator_for
from training.engine.batches_ahead import AHEAD, BatchesAhead, Objective
from training.engine.config import TrainConfig
from training.engine.loop import train

CPU = torch.device("cpu")
CONFIG = TrainConfig(steps=6, learning_rate=0.1, warmup=0, save_every=3, accumulate=2)


class Drawn(NamedTuple):
    key: int
    noise: Tensor


def draw(key: int) -> Drawn:
    return Drawn(key, torch.randn(3, generator=generator_for(key)))


def broken(key: int) -> Drawn:
    if key == 3:
        raise OSError("the disk is gone")
    return draw(key)


class Line(Objective[Drawn]):
    """The mean square of a network's error on numbers that are drawn; it notes who draws what."""

    def __init__(self, broken_step: int = 1000) -> None:
        self.broken_step, self.threads, self.used = broken_step, set[str](), list[Tensor]()

    def draw(self, step: int, generator: torch.Generator) -> Drawn:
        if step == self.broken_step:
            raise OSError("the disk is gone")
        self.threads.add(threading.current_thread().name)
        return Drawn(step, torch.randn(4, 2, generator=generator))

    def loss(self, module: nn.Module, batch: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        self.used.append(batch.noise)
        return (module(batch.noise) - batch.noise.sum(1, keepdim=True)).square().mean(), {}


def network() -> nn.Module:
    module = nn.Linear(2, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("batches-ahead")]


@pytest.mark.parametrize("count", [0, 1, AHEAD, 7])
def test_the_batches_are_those_drawn_directly(count):
    with BatchesAhead(draw, range(count), CPU) as batches:
        found = list(batches)
    assert [batch.key for batch in found] == list(range(count))
    assert all(torch.equal(batch.noise, draw(batch.key).noise) for batch in found)


def test_no_more_is_drawn_than_is_soon_used():
    drawn = []
    with BatchesAhead(lambda key: (drawn.append(key), draw(key))[1], range(100), CPU) as batches:
        next(batches)
        next(batches)
    assert len(drawn) <= 2 + AHEAD


def test_an_error_in_drawing_arrives_once_where_its_batch_is_asked_for():
    with BatchesAhead(broken, range(6), CPU) as batches:
        assert [next(batches).key for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="the disk is gone") as caught:
            next(batches)
        assert "broken" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert [batch.key for batch in batches] == [4, 5]


def test_an_interruption_ends_the_thread():
    def interrupted() -> None:
        with BatchesAhead(draw, range(1000), CPU) as batches:
            next(batches)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_on_cuda_they_are_in_pinned_memory_of_this_process_s_gpu(monkeypatch):
    devices, pinned = [], []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: devices.append((device, threading.current_thread())))
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: (pinned.append(tensor), tensor.clone())[1])
    device = torch.device("cuda", 1)
    with BatchesAhead(draw, range(3), device) as batches:
        found = list(batches)
    assert [batch.key for batch in found] == [0, 1, 2]
    assert len(pinned) == 3
    (used, thread), *others = devices
    assert used == device
    assert thread is not threading.main_thread()
    assert not others


def test_a_run_with_an_objective_is_the_run_with_its_loss_function(tmp_path):
    """Interrupted, resumed, and with batches drawn in the step itself: bit for bit."""
    ahead, plain = network(), network()
    objective, direct = Line(), Line()
    train(ahead, objective, CONFIG, tmp_path / "ahead", "net", until=3)
    train(ahead, objective, CONFIG, tmp_path / "ahead", "net")
    train(plain, lambda module, step, generator: direct(module, step, generator), CONFIG, tmp_path / "plain", "net")
    assert objective.threads == {"batches-ahead_0"}
    assert direct.threads == {threading.main_thread().name}
    assert len(objective.used) == len(direct.used) == CONFIG.steps * CONFIG.accumulate
    assert all(map(torch.equal, objective.used, direct.used))
    assert all(map(torch.equal, ahead.parameters(), plain.parameters()))


def test_a_run_whose_drawing_fails_has_done_the_steps_before(tmp_path):
    objective = Line(broken_step=4)
    with pytest.raises(OSError, match="the disk is gone"):
        train(network(), objective, CONFIG, tmp_path, "net")
    assert len(objective.used) == 4 * CONFIG.accumulate
    assert (tmp_path / "net.safetensors").exists()
