"""The choice among outcomes."""

from typing import Any

import pytest

from miniature.measure.attribute_fidelity import COLUMN as FIDELITY
from miniature.personal.baselines.baseline_grid import Point
from miniature.personal.baselines.baseline_table import WITHOUT, Outcome, best_of, lowest_fidelity
from miniature.personal.sampling_choice import MAX_FIDELITY_LOSS
from training.evaluation.method_settings import MethodSettings


def test_the_choice_is_the_most_like_with_enough_fidelity() -> None:
    def outcome(name: str, likeness: float | None, fidelity: float | None, failed: int = 0) -> Outcome:
        return Outcome(Point(name, {}, MethodSettings("none")), likeness, fidelity, None, failed)

    outcomes = [
        outcome("little", 0.3, 0.95),
        outcome("good", 0.6, 0.90),
        outcome("too much", 0.8, 0.80),
        outcome("fails for one", 0.9, 0.95, failed=1),
        outcome("unknown", None, None),
    ]
    best = best_of(outcomes, 0.9)
    assert best is not None
    assert best.point.name == "good"
    assert best_of(outcomes, 0.96) is None


def test_an_unmeasured_fidelity_without_a_lora_allows_nothing() -> None:
    def report(mean: float | None) -> dict[str, Any]:
        columns = {FIDELITY: {"methods": {WITHOUT: {"value": {"mean": mean}}}}}
        return {"metrics": {FIDELITY: {"columns": columns}}}

    assert lowest_fidelity(report(0.0)) == -MAX_FIDELITY_LOSS
    assert lowest_fidelity(report(0.9)) == 0.9 - MAX_FIDELITY_LOSS
    with pytest.raises(ValueError, match=r"no value of .* for 'no LoRA'"):
        lowest_fidelity(report(None))
