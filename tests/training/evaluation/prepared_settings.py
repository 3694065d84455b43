"""The miniature's evaluation: settings for a folder of `prepare_evaluation`, and what the report says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from miniature.personal.evaluation import SETTINGS
from training.engine.settings import read_settings
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.settings import EvaluationSettings


def settings_in(folder: Path, **changed: Any) -> EvaluationSettings:
    """People, prompts, base model and output of the folder; `changed` are further settings."""
    places = {"people": folder / "people", "prompts": folder / "prompts.yaml", "base": folder / "base"}
    return replace(read_settings(EvaluationSettings, SETTINGS), **places, output=folder / "output", **changed)


def run_evaluation(settings: EvaluationSettings) -> dict[str, Any]:
    """Make what is missing on the CPU, and read report.json."""
    path = Evaluation(settings, "cpu").run()
    return json.loads(path.with_name("report.json").read_text())
