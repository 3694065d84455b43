"""How measured figures carry over."""

import pytest
import torch

from training.end_to_end.rollout import draw_rollout_steps
from training.recipes.planning.cards import Card, DreamBoothFigure, DreamBoothFigures, read_card
from training.recipes.planning.plan_trainers import mean_rollout_steps
from training.recipes.planning.scaling import (
    GIB,
    UNET_BYTES,
    dreambooth_bytes,
    dreambooth_figures,
    dreambooth_seconds,
    training_bytes,
)


def figures(size: int = 768) -> list[DreamBoothFigure]:
    made = tuple(DreamBoothFigure(768, False, people, ms, gib) for people, ms, gib in [(2, 100, 10.0), (4, 80, 16.0)])
    return dreambooth_figures(Card("made up", dreambooth=DreamBoothFigures("today", made)), size, False)


@pytest.mark.parametrize(("rows", "seconds"), [(2, 0.2), (3, 0.26), (4, 0.32), (8, 0.64), (1, 0.1)])
def test_times_between_and_outside_of_measured_counts(rows, seconds):
    assert dreambooth_seconds(figures(), rows, 768) == pytest.approx(seconds)


@pytest.mark.parametrize(("rows", "gib"), [(3, 13.0), (6, 22.0)])
def test_memory_between_and_beyond_measured_counts(rows, gib):
    assert dreambooth_bytes(figures(), rows, 768) == pytest.approx(gib * GIB)


def test_another_size_is_scaled_by_its_pixels():
    assert dreambooth_seconds(figures(384), 2, 384) == pytest.approx(0.05)
    assert dreambooth_bytes(figures(384), 2, 384) == pytest.approx(UNET_BYTES + (10 * GIB - UNET_BYTES) / 4)


def test_the_nearest_measured_size_is_taken():
    h100 = read_card("h100")
    assert {figure.size for figure in dreambooth_figures(h100, 896, True)} == {768}
    assert {figure.size for figure in dreambooth_figures(h100, 960, True)} == {1024}
    assert not dreambooth_figures(None, 768, True)


def test_memory_of_a_trained_network():
    assert training_bytes(100, 1, False, False) == 100 * 20
    assert training_bytes(100, 1, False, True) == 100 * 22
    assert training_bytes(100, 4, False, True) == 100 * 26
    assert training_bytes(100, 4, True, True) == 100 * (6 + 5)


def test_rollouts_have_as_many_steps_on_average():

    generator = torch.Generator().manual_seed(0)
    drawn = [draw_rollout_steps(50, generator)[1] for _ in range(5000)]
    assert mean_rollout_steps(50) == pytest.approx(sum(drawn) / len(drawn), rel=0.1)
    assert mean_rollout_steps(1) == 0
