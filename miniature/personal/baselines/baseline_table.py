"""What was found of the settings of baselines, the choice among them, and its table.

Chosen are the settings whose images are most like the person, among those that follow the prompts about as well as
images without a LoRA.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from difflora_core.files import replacing
from miniature.measure.attribute_fidelity import COLUMN as FIDELITY
from training.evaluation.json_files import write_json
from training.evaluation.metrics.cosines import OTHERS
from training.evaluation.metrics.faces.face_similarity import NAME as LIKENESS
from training.evaluation.metrics.faces.face_similarity import ZEROED

from ..sampling_choice import MAX_FIDELITY_LOSS
from .baseline_grid import Baseline, Point

WITHOUT = "no LoRA"
"""The evaluation's row that fidelity is compared with."""
LIKENESS_COLUMN = f"{LIKENESS}, {OTHERS}, {ZEROED}"
TABLE, VALUES = "baselines.md", "baselines.json"


@dataclass(frozen=True)
class Outcome:
    """What was found of a point of a grid; None was not measurable."""

    point: Point
    """The point."""
    likeness: float | None
    """Mean cosine of the measuring recognizer with other images of the person; an image without a face counts 0."""
    fidelity: float | None
    """Share of the prompts' attributes that the judge finds."""
    seconds: float | None
    """Median time from the references to being ready."""
    failed: int
    """People whom the method could not do."""


@dataclass(frozen=True)
class Choice:
    """A baseline's settings."""

    baseline: Baseline
    """Of which method."""
    present: str | None
    """The point that the evaluation has now; None: it is not in the grid."""
    outcomes: Sequence[Outcome]
    """Of all points."""
    chosen: Outcome | None
    """None: all points lose too much fidelity, or fail for somebody."""


def best_of(outcomes: Sequence[Outcome], floor: float) -> Outcome | None:
    """Return the outcome with the highest likeness among those with enough fidelity that fail for nobody; None: none.

    Args:
        outcomes: Of a baseline.
        floor: The lowest fidelity.
    """
    known = [(own.likeness, own) for own in outcomes if own.likeness is not None and not own.failed]
    able = [(likeness, own) for likeness, own in known if own.fidelity is not None and own.fidelity >= floor]
    return max(able, key=lambda pair: pair[0])[1] if able else None


def outcome_of(values: Mapping[str, Any], point: Point) -> Outcome:
    """Read what was found of a point from the content of the evaluation's report.json."""
    return Outcome(
        point,
        _mean(values, LIKENESS, LIKENESS_COLUMN, point.name),
        _mean(values, FIDELITY, FIDELITY, point.name),
        values["methods"][point.name]["cost"]["ready_seconds"],
        len(values["failures"].get(point.name, {})),
    )


def lowest_fidelity(values: Mapping[str, Any]) -> float:
    """Return the fidelity that a chosen point has at least, from the content of the evaluation's report.json.

    Raises:
        ValueError: That of images without a LoRA was not measured.
    """
    fidelity = _mean(values, FIDELITY, FIDELITY, WITHOUT)
    if fidelity is None:
        raise ValueError(
            f"The report has no value of {FIDELITY!r} for {WITHOUT!r}, which settings are compared with: "
            "evaluate that method and that metric again."
        )
    return fidelity - MAX_FIDELITY_LOSS


def _mean(values: Mapping[str, Any], metric: str, column: str, method: str) -> float | None:
    found: float | None = values["metrics"][metric]["columns"][column]["methods"][method]["value"]["mean"]
    return found


def write_choices(folder: Path, choices: Sequence[Choice], values: Mapping[str, Any]) -> list[str]:
    """Write the table as Markdown and as JSON; return lines that say what was chosen.

    Args:
        folder: Of both files.
        choices: Of all baselines.
        values: Of the evaluation's report.json.
    """
    floor = lowest_fidelity(values)
    without = {"likeness": _mean(values, LIKENESS, LIKENESS_COLUMN, WITHOUT), "fidelity": floor + MAX_FIDELITY_LOSS}
    write_json(
        folder / VALUES,
        {
            "people": list(values["people"]),
            "prompts": [prompt["template"] for prompt in values["prompts"]],
            "without LoRA": without,
            "lowest fidelity": floor,
            "baselines": {
                choice.baseline.name: {
                    "chosen": choice.chosen and choice.chosen.point.name,
                    "present": choice.present,
                    "settings": [
                        {**asdict(own), "point": own.point.name, "values": dict(own.point.values)}
                        for own in choice.outcomes
                    ],
                }
                for choice in choices
            },
        },
    )
    lines = [
        f"{len(values['people'])} validation people × {len(values['prompts'])} prompts; without a LoRA: likeness "
        f"{_number(without['likeness'])}, fidelity {_number(without['fidelity'])}. Chosen is the highest likeness with "
        f"a fidelity of at least {floor:.3f}."
    ]
    chosen_lines = []
    for choice in choices:
        chosen = choice.chosen.point.name if choice.chosen else "none, fidelity is too low or the method fails"
        chosen_lines.append(f"{choice.baseline.name}: chosen {chosen}; the evaluation has {choice.present or 'others'}")
        lines += ["", f"## {choice.baseline.name}", "", "| settings | likeness | fidelity | s/person | |"]
        lines += ["|---|---|---|---|---|", *(_row(own, choice) for own in choice.outcomes)]
    with replacing(folder / TABLE) as partial:
        partial.write_text("\n".join(["# Settings of baselines", "", *lines, ""]), "utf-8")
    return [*chosen_lines, f"the table is {folder / TABLE}"]


def _row(own: Outcome, choice: Choice) -> str:
    remarks = ["**chosen**"] if own is choice.chosen else []
    remarks += ["in the evaluation"] if own.point.name == choice.present else []
    remarks += [f"fails for {own.failed} people"] if own.failed else []
    numbers = [_number(own.likeness), _number(own.fidelity), _number(own.seconds, 2)]
    settings = own.point.name.removeprefix(f"{choice.baseline.name}, ")
    return f"| {' | '.join([settings, *numbers, ', '.join(remarks)])} |"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
