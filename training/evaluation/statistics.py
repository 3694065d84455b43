"""Means over people, and how sure they are.

A person is one observation: the images of a person resemble one another, so that intervals over images would be several
times too narrow (0.012 instead of 0.056 in a simulation of 25 people × 30 prompts). Intervals are bootstrap intervals,
bias-corrected and accelerated (Efron, "Better bootstrap confidence intervals", JASA 82, 1987), because cosines near 1
are skewed and people are few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from difflora_core.seeds import generator_for

CONFIDENCE, RESAMPLES = 0.95, 9999
ROUNDING = 1e-6
"""Differences up to this are none: scores are computed in float32."""


@dataclass(frozen=True)
class Interval:
    """A mean over people with its confidence interval."""

    mean: float
    """NaN if nobody was measurable."""
    low: float
    """Lower end; NaN for fewer than two people."""
    high: float
    """Upper end; NaN for fewer than two people."""
    people: int
    """Who were measurable."""

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is clear: the interval does not hold 0, nor what rounding makes of 0."""
        return self.low > ROUNDING or self.high < -ROUNDING


@dataclass(frozen=True)
class Comparison:
    """A method's values of one column."""

    value: Interval
    """Of the method."""
    difference: Interval
    """Of the method minus the method that is compared with, person by person."""


def person_mean(scores: np.ndarray) -> float:
    """Return the mean of a person's scores (images,), without those that were not measurable (NaN); NaN without any.

    Raises:
        ValueError: A score is infinite, or there is none.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or np.isinf(scores).any():
        raise ValueError(f"expected finite or NaN scores (images,) of a person, found {scores.shape}: {scores[:3]}")
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")


def mean_interval(
    values: Sequence[float] | np.ndarray,
    generator: torch.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean over people with its interval.

    Args:
        values: A value for each person; NaN: not measurable, left out.
        generator: Source of the resampling.
        confidence: Of the interval.
        resamples: Of the people.

    Raises:
        ValueError: Values are infinite or have more than one axis, or `confidence` is not between 0 and 1.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or np.isinf(found).any():
        raise ValueError(f"expected a finite value or NaN for each person, found shape {found.shape}")
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise ValueError(f"expected a confidence in (0, 1) and resamples, found {confidence} and {resamples}")
    known = found[~np.isnan(found)]
    mean = float(known.mean()) if known.size else float("nan")
    if known.size < 2:
        return Interval(mean, float("nan"), float("nan"), known.size)
    rows = torch.randint(known.size, (resamples, known.size), generator=generator).numpy()
    low, high = bca_bounds(known, known[rows].mean(1), confidence)
    return Interval(mean, low, high, known.size)


def bca_bounds(values: np.ndarray, resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the bias-corrected and accelerated interval of a mean.

    Args:
        values: (people,), finite.
        resampled: Means of resamples (resamples,).
        confidence: Of the interval.
    """
    mean, normal = float(values.mean()), NormalDist()
    away = values - mean
    if np.abs(away).max() <= 1e-12 * max(1.0, abs(mean)):  # constant: nothing varies, also between resamples
        return mean, mean
    below = float((resampled < mean).mean() + (resampled <= mean).mean()) / 2.0
    # Of very few people all resamples may lie on one side; the correction would be infinite
    edge = 0.5 / len(resampled)
    bias = normal.inv_cdf(min(max(below, edge), 1.0 - edge))
    # Of a mean, leaving one out moves it by −away / (n − 1): the jackknife needs no loop
    acceleration = float((away**3).sum() / (6.0 * (away**2).sum() ** 1.5))
    bounds = []
    for tail in ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0):
        shifted = bias + normal.inv_cdf(tail)
        bounds.append(normal.cdf(bias + shifted / (1.0 - acceleration * shifted)))
    low, high = np.quantile(resampled, bounds)
    return float(low), float(high)


def compare(values: Mapping[str, Sequence[float] | np.ndarray], against: str, seed: int = 0) -> dict[str, Comparison]:
    """Compare all methods with one on the same people.

    Args:
        values: Of each method a value for each person, in one order.
        against: The method that the others are compared with.
        seed: Of the resampling, which draws the same people for all methods.

    Returns:
        Each method's mean and its paired difference. People that are not measurable (NaN) with one of the two methods
        are left out of the difference.

    Raises:
        ValueError: There is no such method, or methods have different numbers of people.
    """
    if against not in values:
        raise ValueError(f"there is no method {against!r} to compare with, only {', '.join(values) or 'none'}")
    rows = {method: np.asarray(of_people, dtype=np.float64) for method, of_people in values.items()}
    baseline = rows[against]
    for method, of_people in rows.items():
        if of_people.shape != baseline.shape:
            raise ValueError(f"{method} has values of {of_people.size} people, {against} of {baseline.size}")
    return {
        method: Comparison(
            mean_interval(of_people, generator_for(seed, "people")),
            mean_interval(of_people - baseline, generator_for(seed, "people")),
        )
        for method, of_people in rows.items()
    }
