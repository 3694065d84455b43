"""The choice: the cheapest setting that is as good as the best, by likeness and held-out loss."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, median, stdev

from .grid import TeacherSetting
from .setting_measures import Measures
from .setting_run import Outcome

TOLERANCE = 0.02
"""Share of the best likeness that a cheaper setting may lack in any case; our choice."""
KEPT_GAIN = 0.5
"""A candidate lowers the held-out loss by at least this share of the largest reduction by any setting; our choice."""


@dataclass(frozen=True)
class Choice:
    """What was chosen."""

    chosen: TeacherSetting
    """The cheapest that is as good as the best."""
    best: TeacherSetting
    """The candidate with the highest likeness."""
    edges: tuple[str, ...]
    """Names of settings of which the best has the grid's least or largest value: better ones may lie beyond it."""
    passed_over: tuple[TeacherSetting, ...] = ()
    """Settings that are no candidates, since they keep too little of the gain in held-out loss."""


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


def choose(outcomes: Sequence[Outcome], without: Measures) -> Choice:
    """Choose the cheapest of the settings that are as good as the best; of equally cheap ones that of the least loss.

    Likeness alone flatters LoRAs that repeat their training images, so a candidate keeps `KEPT_GAIN` of the largest
    gain in held-out loss, where any setting has one. A setting is as good as the best if its likeness is lower by at
    most `TOLERANCE` of the best's, or by at most one standard error of that difference, whichever is more.

    Args:
        outcomes: Of all settings; those that failed are no candidates.
        without: Measures without any LoRA.

    Raises:
        RuntimeError: Every setting failed, or none is better than no LoRA.
    """
    measured = {outcome.setting: outcome.measures for outcome in outcomes if outcome.measures is not None}
    if not measured:
        raise RuntimeError(
            f"every training failed, first with {outcomes[0].setting}: {outcomes[0].failed}. Give smaller "
            "--learning-rates"
        )
    gains = {setting: 1 - measures.loss / without.loss for setting, measures in measured.items()}
    most = max(gains.values())
    kept = {setting: measured[setting] for setting, gain in gains.items() if most <= 0 or gain >= KEPT_GAIN * most}
    best = max(kept, key=lambda setting: kept[setting].likeness)
    if kept[best].likeness <= without.likeness:
        raise RuntimeError(
            f"no setting with a low held-out loss makes images more like the person than no LoRA does: "
            f"{kept[best].likeness:.3f} at best, with {best}, {without.likeness:.3f} without. Give other "
            "--learning-rates or more --steps"
        )
    cost = seconds_per_person(outcomes)
    as_good = [setting for setting, measures in kept.items() if is_as_good(measures, kept[best])]
    chosen = min(as_good, key=lambda setting: (cost[setting], kept[setting].loss))
    passed_over = tuple(setting for setting in measured if setting not in kept)
    return Choice(chosen, best, _edges(best, [outcome.setting for outcome in outcomes]), passed_over)


def is_as_good(measures: Measures, best: Measures) -> bool:
    """Whether what a setting lacks of the best likeness is within the tolerance or its standard error."""
    lack, error = lacking_likeness(measures, best)
    return lack <= max(TOLERANCE * abs(best.likeness), error)


def lacking_likeness(measures: Measures, best: Measures) -> tuple[float, float]:
    """Return what a setting lacks of the best likeness, and the standard error of that over people.

    It is taken person by person: that some faces are harder than others concerns all settings alike. The error is 0
    for one person.
    """
    lacks = [high - low for high, low in zip(best.likeness_by_person, measures.likeness_by_person, strict=True)]
    return fmean(lacks), stdev(lacks) / sqrt(len(lacks)) if len(lacks) > 1 else 0.0


def _edges(best: TeacherSetting, grid: Sequence[TeacherSetting]) -> tuple[str, ...]:
    """List learning rate and steps, where the grid has several and the best has the least or largest of them."""
    found = []
    for name, words in (("learning_rate", "learning rate"), ("steps", "number of steps")):
        values = sorted({getattr(setting, name) for setting in grid})
        if len(values) > 1 and getattr(best, name) in (values[0], values[-1]):
            found.append(f"the {'least' if getattr(best, name) == values[0] else 'largest'} {words}")
    return tuple(found)
