"""The pilot as a recipe's first step: whether it has anything to do, and whether its choice may be written."""

from collections.abc import Mapping

from training.engine.settings import read_settings
from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest
from training.pilot.settings import PilotSettings

from .recipe import Recipe, Step, comes_with_the_project, pilot_step, teacher_step
from .step_records import StepRecord


def pilot_settings(recipe: Recipe) -> PilotSettings:
    """Return the settings of the recipe's pilot; without one, those by default.

    Raises:
        ValueError: The recipe's pilot is of another dataset than its teachers.
    """
    dataset, step = teacher_step(recipe).settings, pilot_step(recipe)
    if step is None:
        return PilotSettings(dataset)
    settings = read_settings(PilotSettings, step.settings)
    if settings.dataset != dataset:
        raise ValueError(f"{step.settings}: dataset is {settings.dataset}, but the recipe's teachers are of {dataset}")
    return settings


def reason_not_to_write(recipe: Recipe, write: bool, keep: bool = False) -> str | None:
    """Say why a pilot's choice is not written into the recipe's settings; None if it is.

    Args:
        recipe: Whose pilot.
        write: It is asked for, whatever speaks against it.
        keep: It is asked not to be.
    """
    if keep:
        return "--keep-settings"
    if write:
        return None
    settings = teacher_step(recipe).settings
    if comes_with_the_project(settings):
        return "the recipe comes with the project; copy the recipe first, or give --write"
    if trained := _trained_groups(recipe):
        return f"{trained} groups of teachers have been trained with the settings as they are; give --write to go on"
    return None


def is_left_out(recipe: Recipe, step: Step, records: Mapping[str, StepRecord]) -> bool:
    """Whether a step is a pilot that comes too late: there are teachers already, trained or imported."""
    if step.command != "pilot" or step.name in records:
        return False
    return teacher_step(recipe).name in records or _trained_groups(recipe) > 0


def check_may_write(recipe: Recipe, records: Mapping[str, StepRecord]) -> None:
    """Check, before anything is run, that a pilot that is to be run may write what it chooses.

    Raises:
        ValueError: The recipe comes with the project, and its pilot is not done.
    """
    step = pilot_step(recipe)
    if step is None or step.name in records or is_left_out(recipe, step, records):
        return
    folder = step.settings.parent
    if comes_with_the_project(folder):
        raise ValueError(
            f"the recipe begins with a pilot, which writes the teachers' settings into it, and {folder} comes with "
            f"the project. Copy that folder to another one beside it, {folder.parent / 'my-recipe'}, and run the copy. "
            f"Or let `python -m training pilot {folder.name} --write` change it"
        )


def _trained_groups(recipe: Recipe) -> int:
    return len(Manifest(load_config(teacher_step(recipe).settings).stage("dreambooth")).done())
