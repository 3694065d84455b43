"""Intervals against scipy's, their coverage, and data that is constant or partly missing."""

import numpy as np
import pytest
import torch

from training.evaluation.statistics import bca_bounds, compare, mean_interval, person_mean


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("confidence", [0.95, 0.8])
@pytest.mark.parametrize("people", [5, 25])
def test_bounds_are_scipys_for_the_same_resamples(people, confidence):
    from scipy.stats import bootstrap

    values = np.random.default_rng(people).exponential(size=people)
    expected = bootstrap(
        (values,), np.mean, confidence_level=confidence, method="BCa", rng=np.random.default_rng(1), n_resamples=2000
    )
    found = bca_bounds(values, expected.bootstrap_distribution, confidence)
    assert found == pytest.approx(tuple(expected.confidence_interval), rel=1e-12)


def test_skewed_people_have_a_skewed_interval():
    found = mean_interval(np.random.default_rng(2).exponential(size=25), generator())
    assert found.high - found.mean > 1.15 * (found.mean - found.low)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(3)
    samples = rng.normal(0.5, 0.1, (400, 25))
    intervals = [mean_interval(values, generator(number), resamples=999) for number, values in enumerate(samples)]
    covered = np.mean([interval.low <= 0.5 <= interval.high for interval in intervals])
    assert covered == pytest.approx(0.94, abs=0.03)  # somewhat too narrow for 25 people: known of the bootstrap


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(4).random(25)
    assert mean_interval(values, generator(5)) == mean_interval(values, generator(5))
    assert mean_interval(values, generator(5)) != mean_interval(values, generator(6))


@pytest.mark.parametrize("value", [0.0, 0.3, -7e5])
def test_constant_people_have_an_interval_of_no_width(value):
    found = mean_interval([value] * 7, generator())
    assert (found.mean, found.low, found.high, found.people) == pytest.approx((value, value, value, 7))


def test_one_outlier_among_constants():
    found = mean_interval([0.5] * 24 + [1.0], generator())
    assert found.low == pytest.approx(0.5)
    assert 0.52 < found.high < 0.65


def test_people_without_a_value_are_left_out():
    values = np.random.default_rng(5).random(10)
    found = mean_interval([np.nan, *values, np.nan], generator())
    assert found == mean_interval(values, generator())
    assert found.people == 10


@pytest.mark.parametrize(("values", "mean", "people"), [([0.4], 0.4, 1), ([np.nan] * 3, np.nan, 0), ([], np.nan, 0)])
def test_too_few_people_have_no_interval(values, mean, people):
    found = mean_interval(values, generator())
    assert found.people == people
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert np.isnan([found.low, found.high]).all()
    assert not found.excludes_zero


@pytest.mark.parametrize(("values", "message"), [([np.inf, 1.0], "finite value"), ([[1.0, 2.0]], r"shape \(1, 2\)")])
def test_other_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, generator())


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_an_impossible_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence in"):
        mean_interval([1.0, 2.0], generator(), confidence)


def test_paired_differences_are_clear_where_intervals_overlap():
    people = np.random.default_rng(6).normal(0.5, 0.2, 25)
    worse = people - 0.05 + np.random.default_rng(7).normal(0, 0.02, 25)
    found = compare({"DiffLoRA": people, "other": worse}, against="DiffLoRA")
    assert found["other"].value.high > found["DiffLoRA"].value.low
    assert found["other"].difference.mean == pytest.approx((worse - people).mean())
    assert found["other"].difference.excludes_zero


def test_a_method_does_not_differ_from_itself():
    found = compare({"DiffLoRA": [0.1, 0.5, np.nan]}, against="DiffLoRA")["DiffLoRA"].difference
    assert (found.mean, found.low, found.high, found.people) == (0.0, 0.0, 0.0, 2)
    assert not found.excludes_zero


def test_a_difference_is_of_people_that_both_methods_have():
    found = compare({"one": [0.1, np.nan, 0.6, 0.2], "two": [0.3, 0.4, np.nan, 0.3]}, against="one")
    assert found["two"].difference.people == 2
    assert found["two"].difference.mean == pytest.approx(0.15)
    assert found["two"].value.people == 3


def test_the_order_of_methods_changes_nothing():
    values = {name: np.random.default_rng(seed).random(9) for seed, name in enumerate(("one", "two", "three"))}
    assert compare(dict(reversed(values.items())), "two") == compare(values, "two")


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "no method 'DiffLoRA'"), ({"DiffLoRA": [1, 2], "other": [1]}, "other has values of 1 people, DiffLoRA of 2")],
)
def test_what_can_not_be_compared_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        compare(values, against="DiffLoRA")


def test_a_persons_value_is_the_mean_of_measurable_images():
    assert person_mean(np.array([0.2, np.nan, 0.4])) == pytest.approx(0.3)
    assert np.isnan(person_mean(np.array([np.nan, np.nan])))


@pytest.mark.parametrize("scores", [[], [np.inf], [[0.1]]])
def test_scores_of_nobody_are_refused(scores):
    with pytest.raises(ValueError, match="scores"):
        person_mean(np.array(scores))


def test_a_difference_of_rounding_is_not_clear():
    found = compare({"one": [0.1 + 0.2] * 12, "other": [0.3] * 12}, "other")
    assert found["one"].difference.low > 0
    assert not found["one"].difference.excludes_zero
