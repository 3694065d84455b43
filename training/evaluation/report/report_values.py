"""report.json: every number with its interval, people and model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..results import MetricResult
from ..statistics import CONFIDENCE, RESAMPLES, Interval
from .evaluation_report import EvaluationReport, versions


def report_values(report: EvaluationReport) -> dict[str, Any]:
    """Return the content of report.json; what is not known is null."""
    values = {
        "people": {
            person.name: {"references": len(person.references), "others": len(person.others)}
            for person in report.people
        },
        "prompts": [asdict(prompt) for prompt in report.prompts],
        "settings": asdict(report.settings),
        "device": report.device,
        "versions": versions(),
        "intervals": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "over": "people", "kind": "BCa bootstrap"},
        "compared_with": report.settings.baseline,
        "methods": {
            name: {"placement": placement, "cost": asdict(report.costs[name])}
            for name, placement in report.placements.items()
        },
        "metrics": {result.key: _metric(result) for result in report.metrics},
        "sets": {
            "values": report.sets.values,
            "descriptions": [asdict(about) for about in report.sets.descriptions],
        },
        "failures": report.failures,
        "remarks": list(report.remarks),
        "not_measured": report.not_measured,
    }
    return _plain(values)


def _metric(result: MetricResult) -> dict[str, Any]:
    return {
        **asdict(result.description),
        "columns": {
            column: {
                "better": better,
                "methods": {
                    method: {
                        "value": _interval(found.value),
                        "difference": _interval(found.difference),
                        "kinds": result.kinds.get(column, {}).get(method, {}),
                        "measured": result.measured[column][method],
                        "people": list(result.people[column][method]),
                    }
                    for method, found in result.comparisons[column].items()
                },
            }
            for column, better in result.columns.items()
        },
    }


def _interval(found: Interval) -> dict[str, float | int]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.people}


def _plain(value: Any) -> Any:
    """Make a value ready for JSON: paths become texts, numbers that are not finite null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
