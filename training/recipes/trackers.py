"""The check, before anything is run, that the trackers which a recipe's trainers log with are installed."""

from collections.abc import Sequence

from accelerate.tracking import get_available_trackers

from training.end_to_end.settings import FinetuneSettings
from training.engine.config import TrainConfig
from training.engine.settings import read_settings

from .recipe import Step
from .settings_agreement import SETTINGS


def check_trackers(steps: Sequence[Step]) -> None:
    """Check that all trackers are installed: Accelerate begins them with a training, hours after the teachers.

    Raises:
        ValueError: One is unknown or not installed.
    """
    installed = {"all", *map(str, get_available_trackers())}
    for step in steps:
        for loop in _loops(step):
            if missing := sorted(set(loop.log_with) - installed):
                raise ValueError(
                    f"{step.settings}: log_with names {', '.join(missing)}, which is unknown or not installed; there "
                    f"are {', '.join(sorted(installed))}. Install it, or take it out of `log_with`"
                )


def _loops(step: Step) -> list[TrainConfig]:
    if step.command not in SETTINGS:
        return []
    settings = read_settings(SETTINGS[step.command], step.settings)
    if isinstance(settings, FinetuneSettings):
        return [settings.lae.loop, settings.denoiser.loop]
    return [settings.training.loop]
