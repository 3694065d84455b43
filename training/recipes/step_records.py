"""Which steps of a recipe are done: <output>/steps.json, with what each was made from."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from difflora_core.files import replacing

from .recipe import Recipe, Step

RECORDS = "steps.json"


@dataclass(frozen=True)
class StepRecord:
    """A step that is done."""

    inputs: Mapping[str, str]
    """What it was made from: a hash by setting, see `step_inputs.inputs_of`."""
    seconds: float
    """How long it took, over all runs of it that were noted."""
    finished: str
    """Date and time."""
    imported: bool = False
    """Whether `import` took the step's place."""


def read_records(output: Path) -> dict[str, StepRecord]:
    """Read which steps are done, by name.

    Raises:
        ValueError: The file is damaged.
    """
    path = output / RECORDS
    if not path.exists():
        return {}
    try:
        return {name: StepRecord(**record) for name, record in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it, and the steps go through their own checks") from error


def note_done(recipe: Recipe, step: Step, inputs: Mapping[str, str], seconds: float, *, imported: bool = False) -> None:
    """Note that a step is done; see `StepRecord`."""
    records = read_records(recipe.output)
    before = records[step.name].seconds if step.name in records else 0.0
    finished = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    records[step.name] = StepRecord(inputs, before + seconds, finished, imported)
    with replacing(recipe.output / RECORDS) as partial:
        partial.write_text(json.dumps({name: asdict(record) for name, record in records.items()}, indent=1), "utf-8")
