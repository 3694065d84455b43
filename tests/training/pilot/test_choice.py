"""Which setting is chosen, by figures made by hand and by ones measured in the miniature."""

from math import sqrt
from statistics import stdev

import pytest

from training.pilot.choice import choose, lacking_likeness, seconds_per_person
from training.pilot.grid import TeacherSetting
from training.pilot.setting_measures import Measures
from training.pilot.setting_run import Outcome

BY_PERSON = {
    (0.012, 40, 0.932): (0.459, 0.220, 0.463, 0.384, 0.442, 0.425, 0.514, 0.596),
    (0.03, 40, 0.991): (0.415, 0.186, 0.453, 0.497, 0.478, 0.450, 0.619, 0.632),
    (0.012, 80, 0.953): (0.517, 0.271, 0.547, 0.523, 0.508, 0.559, 0.558, 0.629),
    (0.03, 80, 1.032): (0.452, 0.199, 0.441, 0.499, 0.433, 0.498, 0.573, 0.592),
}
"""Learning rate, steps and held-out loss, and likeness of eight people of the miniature."""


def without(likeness: float) -> Measures:
    """Measures without a LoRA, of loss 1."""
    return Measures(likeness, 1.0, None, (likeness,), 0)


def outcome(
    rate: float,
    steps: int,
    likeness: float | None,
    seconds: float | None = None,
    rank: int = 4,
    loss: float = 0.9,
    people: tuple[float, ...] = (),
) -> Outcome:
    setting = TeacherSetting(rate, steps, False, rank)
    seconds = float(steps) if seconds is None else seconds
    if likeness is None:
        return Outcome(setting, seconds, None, "2 of 8 trainings ended in NaN")
    return Outcome(setting, seconds, Measures(likeness, loss, None, people or (likeness,), 0))


def test_the_cheapest_within_two_percent_of_the_best():
    outcomes = [outcome(1e-3, 100, 0.489), outcome(1e-3, 200, 0.491), outcome(1e-3, 400, 0.500)]
    choice = choose(outcomes, without(0.1))
    assert choice.chosen.steps == 200
    assert choice.best.steps == 400


def test_equally_cheap_ones_by_held_out_loss():
    """Learning rates cost the same, whatever the clock said."""
    outcomes = [
        outcome(1e-4, 100, 0.495, 90.0, loss=0.92),
        outcome(3e-4, 100, 0.495, 110.0, loss=0.91),
        outcome(1e-3, 100, 0.5, 95.0, loss=0.92),
    ]
    assert choose(outcomes, without(0.1)).chosen.learning_rate == 3e-4


def test_costs_are_per_step_of_the_same_targets_and_rank():
    outcomes = [outcome(1e-3, 100, 0.5, 300.0), outcome(1e-3, 200, 0.5, 200.0), outcome(1e-3, 400, 0.5, 400.0)]
    outcomes.append(outcome(1e-3, 100, 0.5, 150.0, rank=8))
    assert list(seconds_per_person(outcomes).values()) == [100.0, 200.0, 400.0, 150.0]


def test_failures_are_no_candidates():
    assert choose([outcome(1e-2, 100, None), outcome(1e-3, 200, 0.4)], without(0.1)).chosen.steps == 200
    with pytest.raises(RuntimeError, match=r"every training failed, first with learning rate 0\.01, 100 steps"):
        choose([outcome(1e-2, 100, None)], without(0.1))


def test_nothing_better_than_no_lora_is_an_error():
    with pytest.raises(RuntimeError, match=r"0\.300 at best, with .*, 0\.310 without"):
        choose([outcome(1e-3, 100, 0.3)], without(0.31))


def test_a_negative_best_still_has_neighbors():
    outcomes = [outcome(1e-3, 100, -0.101), outcome(1e-3, 200, -0.1)]
    assert choose(outcomes, without(-0.5)).chosen.steps == 100


def test_the_edge_of_the_grid_is_said():
    inside = [outcome(rate, steps, 0.4 + (rate == 3e-4) * 0.1) for rate in (1e-4, 3e-4, 1e-3) for steps in (100,)]
    assert choose(inside, without(0.1)).edges == ()
    outside = [outcome(1e-4, 100, 0.3), outcome(1e-3, 100, 0.4), outcome(1e-4, 200, 0.3), outcome(1e-3, 200, 0.5)]
    assert choose(outside, without(0.1)).edges == ("the largest learning rate", "the largest number of steps")


@pytest.mark.parametrize(("flattered", "shipped"), [((0.630, 0.987), (0.615, 0.938)), ((0.627, 0.967), (0.686, 0.936))])
def test_more_likeness_at_a_higher_held_out_loss_is_not_chosen(flattered, shipped):
    """Both seeds of the miniature's teachers: a learning rate of 0.03 against 0.012."""
    outcomes = [
        outcome(rate, 80, likeness, loss=loss) for rate, (likeness, loss) in ((0.03, flattered), (0.012, shipped))
    ]
    assert choose(outcomes, without(0.0)).chosen.learning_rate == 0.012


def test_what_keeps_less_than_half_of_the_gain_is_passed_over():
    outcomes = [
        outcome(1e-3, 400, 0.5, loss=0.90),
        outcome(3e-3, 100, 0.6, loss=0.951),
        outcome(2e-3, 200, 0.5, loss=0.949),
    ]
    choice = choose(outcomes, without(0.1))
    assert choice.passed_over == (outcomes[1].setting,)
    assert choice.chosen == outcomes[2].setting


def test_likeness_decides_where_nothing_lowers_the_held_out_loss():
    outcomes = [outcome(1e-3, 400, 0.5, loss=1.01), outcome(3e-3, 100, 0.6, loss=1.2)]
    choice = choose(outcomes, without(0.1))
    assert (choice.chosen, choice.passed_over) == (outcomes[1].setting, ())


def test_a_lack_within_its_standard_error_counts_as_none():
    best, noisy, worse = (0.5, 0.6, 0.7, 0.8), (0.52, 0.52, 0.72, 0.74), (0.47, 0.57, 0.67, 0.77)
    outcomes = [outcome(1e-3, 400, 0.65, people=best), outcome(1e-3, 100, 0.625, people=noisy)]
    assert choose(outcomes, without(0.1)).chosen.steps == 100, "lacks 0.025 ± 0.0263"
    outcomes[1] = outcome(1e-3, 100, 0.62, people=worse)
    assert choose(outcomes, without(0.1)).chosen.steps == 400, "lacks 0.03 of everybody"


def test_people_differ_more_than_settings():
    """By person the error of a lack is less than half of that of the likeness itself."""
    outcomes = [
        outcome(rate, steps, sum(people) / len(people), loss=loss, people=people)
        for (rate, steps, loss), people in BY_PERSON.items()
    ]
    lack, error = lacking_likeness(outcomes[0].measures, outcomes[2].measures)
    assert (lack, error) == pytest.approx((0.0761, 0.0142), abs=1e-4)
    assert error < 0.5 * stdev(outcomes[2].measures.likeness_by_person) / sqrt(8)
    choice = choose(outcomes, Measures(0.0, 1.0, None, (0.0,) * 8, 0))
    assert choice.chosen == choice.best == outcomes[2].setting
    assert set(choice.passed_over) == {outcomes[1].setting, outcomes[3].setting}
