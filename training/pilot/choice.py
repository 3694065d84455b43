"""The choice: the cheapest setting whose likeness is nearly that of the best."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .grid import TeacherSetting
from .setting_run import Outcome

TOLERANCE = 0.02
"""Share of the best likeness that a cheaper setting may lack."""


@dataclass(frozen=True)
class Choice:
    """What was chosen."""

    chosen: TeacherSetting
    """The cheapest within `TOLERANCE` of the best."""
    best: TeacherSetting
    """The one with the highest likeness."""
    edges: tuple[str, ...]
    """Names of settings of which the best has the grid's least or largest value: better ones may lie beyond it."""


def seconds_per_person(outcomes: Sequence[Outcome]) -> dict[TeacherSetting, float]:
    """Return what each setting costs, in seconds of training for each person.

    A step costs the same at every learning rate and in trainings of any length, so the median over all settings with
    the same targets and rank is taken: other work on the machine disturbs single ones.
    """
    rates: dict[tuple[bool, int], list[float]] = defaultdict(list)
    for outcome in outcomes:
        rates[outcome.setting.feed_forward, outcome.setting.rank].append(outcome.seconds / outcome.setting.steps)
    return {
        setting: setting.steps * median(rates[setting.feed_forward, setting.rank])
        for setting in (outcome.setting for outcome in outcomes)
    }


def choose(outcomes: Sequence[Outcome], likeness_without: float) -> Choice:
    """Choose the cheapest setting within `TOLERANCE` of the best; of equally cheap ones the one with more likeness.

    Args:
        outcomes: Of all settings; those that failed are no candidates.
        likeness_without: Likeness without any LoRA.

    Raises:
        RuntimeError: Every setting failed, or none is better than no LoRA.
    """
    likeness = {outcome.setting: outcome.measures.likeness for outcome in outcomes if outcome.measures is not None}
    if not likeness:
        raise RuntimeError(
            f"every training failed, first with {outcomes[0].setting}: {outcomes[0].failed}. Give smaller "
            "--learning-rates"
        )
    best = max(likeness, key=lambda setting: likeness[setting])
    if likeness[best] <= likeness_without:
        raise RuntimeError(
            f"no setting makes images more like the person than no LoRA does: {likeness[best]:.3f} at best, with "
            f"{best}, {likeness_without:.3f} without. Give other --learning-rates or more --steps"
        )
    cost = seconds_per_person(outcomes)
    least = likeness[best] - TOLERANCE * abs(likeness[best])
    near = [setting for setting in likeness if likeness[setting] >= least]
    chosen = min(near, key=lambda setting: (cost[setting], -likeness[setting]))
    return Choice(chosen, best, _edges(best, [outcome.setting for outcome in outcomes]))


def _edges(best: TeacherSetting, grid: Sequence[TeacherSetting]) -> tuple[str, ...]:
    """List learning rate and steps, where the grid has several and the best has the least or largest of them."""
    found = []
    for name, words in (("learning_rate", "learning rate"), ("steps", "number of steps")):
        values = sorted({getattr(setting, name) for setting in grid})
        if len(values) > 1 and getattr(best, name) in (values[0], values[-1]):
            found.append(f"the {'least' if getattr(best, name) == values[0] else 'largest'} {words}")
    return tuple(found)
