"""MLPs adapted to the tasks of a family: every kind of weights learns, and a LoRA has its rank."""

import pytest
import torch

from training.toy_experiment.report import KINDS
from training.toy_experiment.tasks import ToySettings, adapt, draw_family, task_loss, train_base

TINY = ToySettings(samples=40, steps=30)


@pytest.fixture(scope="module")
def adapted():
    tasks = draw_family(10, seed=0)
    base = train_base(tasks, 30, seed=0)
    return tasks, base, adapt(tasks, base, TINY, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_its_task(adapted, kind):
    tasks, base, found = adapted
    x = torch.randn(10, 100, 8, generator=torch.Generator().manual_seed(3))
    own = found[kind]
    average = task_loss(tasks, base, [matrix * 0 for matrix in tasks], x).mean()
    untrained = {"full, own starts": 3 * average}.get(kind, average)  # random networks are far worse than the average
    assert task_loss(tasks, own.base, own.matrices(own.flat), x).mean() < untrained


def test_a_lora_is_of_its_rank(adapted):
    found = adapted[2]["LoRA"]
    assert torch.linalg.matrix_rank(found.matrices(found.flat)[1][0], rtol=1e-4) == 2


def test_loras_start_from_one_down_factor_or_from_their_own(adapted):
    tasks, base, _ = adapted
    start = adapt(tasks, base, ToySettings(samples=40, steps=0), seed=0)
    assert (start["LoRA"].flat == start["LoRA"].flat[0]).all()
    assert not torch.equal(start["LoRA, own starts"].flat[0], start["LoRA, own starts"].flat[1])
