"""Which setting is chosen, by figures made by hand."""

import pytest

from training.pilot.choice import choose, seconds_per_person
from training.pilot.grid import TeacherSetting
from training.pilot.setting_measures import Measures
from training.pilot.setting_run import Outcome


def outcome(rate: float, steps: int, likeness: float | None, seconds: float | None = None, rank: int = 4) -> Outcome:
    setting = TeacherSetting(rate, steps, False, rank)
    seconds = float(steps) if seconds is None else seconds
    if likeness is None:
        return Outcome(setting, seconds, None, "2 of 8 trainings ended in NaN")
    return Outcome(setting, seconds, Measures(likeness, 0.1, None, (likeness,), 0))


def test_the_cheapest_within_two_percent_of_the_best():
    outcomes = [outcome(1e-3, 100, 0.489), outcome(1e-3, 200, 0.491), outcome(1e-3, 400, 0.500)]
    choice = choose(outcomes, 0.1)
    assert choice.chosen.steps == 200
    assert choice.best.steps == 400


def test_equally_cheap_ones_by_likeness():
    """Learning rates cost the same, whatever the clock said."""
    outcomes = [outcome(1e-4, 100, 0.49, 90.0), outcome(3e-4, 100, 0.50, 110.0), outcome(1e-3, 100, 0.495, 95.0)]
    assert choose(outcomes, 0.1).chosen.learning_rate == 3e-4


def test_costs_are_per_step_of_the_same_targets_and_rank():
    outcomes = [outcome(1e-3, 100, 0.5, 300.0), outcome(1e-3, 200, 0.5, 200.0), outcome(1e-3, 400, 0.5, 400.0)]
    outcomes.append(outcome(1e-3, 100, 0.5, 150.0, rank=8))
    assert list(seconds_per_person(outcomes).values()) == [100.0, 200.0, 400.0, 150.0]


def test_failures_are_no_candidates():
    assert choose([outcome(1e-2, 100, None), outcome(1e-3, 200, 0.4)], 0.1).chosen.steps == 200
    with pytest.raises(RuntimeError, match=r"every training failed, first with learning rate 0\.01, 100 steps"):
        choose([outcome(1e-2, 100, None)], 0.1)


def test_nothing_better_than_no_lora_is_an_error():
    with pytest.raises(RuntimeError, match=r"0\.300 at best, with .*, 0\.310 without"):
        choose([outcome(1e-3, 100, 0.3)], 0.31)


def test_a_negative_best_still_has_neighbors():
    outcomes = [outcome(1e-3, 100, -0.101), outcome(1e-3, 200, -0.1)]
    assert choose(outcomes, -0.5).chosen.steps == 100


def test_the_edge_of_the_grid_is_said():
    inside = [outcome(rate, steps, 0.4 + (rate == 3e-4) * 0.1) for rate in (1e-4, 3e-4, 1e-3) for steps in (100,)]
    assert choose(inside, 0.1).edges == ()
    outside = [outcome(1e-4, 100, 0.3), outcome(1e-3, 100, 0.4), outcome(1e-4, 200, 0.3), outcome(1e-3, 200, 0.5)]
    assert choose(outside, 0.1).edges == ("the largest learning rate", "the largest number of steps")
