"""From scores of images to methods' means with intervals, differences and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from training.lora_dataset.manifest import Record

from .generation.image_records import made_images
from .metrics.metric import Better, Description, Scores
from .statistics import Comparison, compare, person_mean

NAN = float("nan")


@dataclass(frozen=True)
class MetricResult:
    """Everything that was found by one metric."""

    key: str
    """The metric's."""
    columns: Mapping[str, Better]
    """Its columns."""
    description: Description
    """What it is."""
    comparisons: Mapping[str, Mapping[str, Comparison]]
    """By column, by method."""
    people: Mapping[str, Mapping[str, Sequence[float]]]
    """By column, by method: each person's value, NaN where there is none."""
    measured: Mapping[str, Mapping[str, int]]
    """By column, by method: values that were measurable, of images, or of people where a column has one a person."""
    kinds: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By column, by method, by kind of prompt: the mean over people; without columns that have one value a person."""


@dataclass(frozen=True)
class MethodCost:
    """What a method takes; None was not measured."""

    ready_seconds: float | None
    """Median over people: from the references to being ready, models loaded and warm."""
    first_image_seconds: float | None
    """Median over people: of a person's first image, which holds the preparation where a method has none of its own."""
    image_seconds: float | None
    """Median over images."""
    parameters: int | None
    """Numbers that are a person's own."""
    bytes: int | None
    """Of a person's file."""


def metric_result(
    key: str,
    about: tuple[Mapping[str, Better], Description],
    scores: Mapping[tuple[str, str], Scores],
    methods: Sequence[str],
    people: Sequence[str],
    kinds: Sequence[str],
    baseline: str,
    seed: int,
) -> MetricResult:
    """Summarize the scores of a metric.

    Args:
        key: The metric's.
        about: Its columns and description.
        scores: By method and person; people whom a method could not do are missing.
        methods: All, in the tables' order.
        people: All.
        kinds: Of each image's prompt, in the images' order.
        baseline: The method that others are compared with.
        seed: Of the resampling.
    """
    columns, description = about
    by_person, measured, comparisons, by_kind = {}, {}, {}, {}
    for column in columns:
        found = {m: [scores[m, p][column] if (m, p) in scores else np.array([NAN]) for p in people] for m in methods}
        by_person[column] = {method: [person_mean(values) for values in rows] for method, rows in found.items()}
        measured[column] = {method: sum(int((~np.isnan(v)).sum()) for v in rows) for method, rows in found.items()}
        comparisons[column] = compare(by_person[column], baseline, seed)
        if any(len(values) == len(kinds) for rows in found.values() for values in rows) and len(kinds) > 1:
            by_kind[column] = {method: _mean_by_kind(rows, kinds) for method, rows in found.items()}
    return MetricResult(key, columns, description, comparisons, by_person, measured, by_kind)


def _mean_by_kind(rows: Sequence[np.ndarray], kinds: Sequence[str]) -> dict[str, float]:
    """Average one method's values by the prompt's kind; rows: each person's, (images,) unless there are none."""
    complete, of_kind = [values for values in rows if len(values) == len(kinds)], np.array(kinds)
    return {kind: _mean([values[of_kind == kind] for values in complete]) for kind in dict.fromkeys(kinds)}


def _mean(rows: Sequence[np.ndarray]) -> float:
    """Mean over people of their means, without what was not measurable."""
    known = [value for value in map(person_mean, rows) if not np.isnan(value)]
    return float(np.mean(known)) if known else NAN


def method_cost(records: Sequence[Record]) -> MethodCost:
    """Summarize what a method's records say."""
    preparations = [record.facts.get("preparation", {}) for record in records]
    seconds = [entry["seconds"] for record in records for entry in made_images(record).values()]
    first = [next(iter(images.values()))["seconds"] for record in records if (images := made_images(record))]
    return MethodCost(
        _median(preparations, "seconds"),
        median(first) if first else None,
        median(seconds) if seconds else None,
        _whole(_median(preparations, "parameters")),
        _whole(_median(preparations, "bytes")),
    )


def _median(preparations: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [value for preparation in preparations if (value := preparation.get(name)) is not None]
    return median(known) if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
