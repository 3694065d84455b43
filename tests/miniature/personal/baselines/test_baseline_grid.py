"""Grids of baselines' settings hold what the evaluation has."""

from dataclasses import replace

import pytest

from miniature.personal.baselines.baseline_choice import evaluation_methods
from miniature.personal.baselines.baseline_grid import BASELINES, Axis, Baseline
from training.evaluation.method_settings import check_method_names

DREAMBOOTH = BASELINES[0]


@pytest.mark.parametrize("baseline", BASELINES, ids=[baseline.name for baseline in BASELINES])
def test_the_evaluation_has_a_point_of_the_grid(baseline: Baseline) -> None:
    settings = evaluation_methods()[baseline.method]
    points = list(baseline.points(settings))
    assert [point.settings for point in points].count(settings) == 1
    check_method_names({point.name: point for point in points})


def test_what_is_no_axis_stays_as_in_the_evaluation() -> None:
    settings = evaluation_methods()[DREAMBOOTH.method]
    axes = Axis("training.steps", "steps", (5,)), Axis("training.learning_rate", "rate", (0.001,))
    (point,) = replace(DREAMBOOTH, axes=axes).points(settings)
    assert point.name == "DreamBooth, steps 5, rate 0.001"
    assert point.values == {"training.steps": 5, "training.learning_rate": 0.001}
    assert point.settings == replace(settings, training=replace(settings.training, steps=5, learning_rate=0.001))
