"""The choice among outcomes."""

from miniature.personal.baselines.baseline_grid import Point
from miniature.personal.baselines.baseline_table import Outcome, best_of
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
