"""What a step is made from, so that a later change of it is noticed."""

from dataclasses import fields
from pathlib import Path

from training.dreambooth.config import NO_EFFECT
from training.lora_dataset.config import load_config
from training.lora_dataset.fingerprints import hash_file, hash_value, settings_of
from training.pilot.grid import TeacherSetting

from .recipe import Step
from .step_files import StepFiles


def inputs_of(step: Step) -> dict[str, str]:
    """Hash what a step is made from, by setting.

    Settings and networks are hashed by content. Of folders, such as a store of many gigabytes, names, sizes and times
    of the files count. Of the dataset's settings a pilot depends on some, and not on those that it writes itself.

    Raises:
        FileNotFoundError: The settings file is not there.
    """
    files: StepFiles = step.files
    own = {"settings": hash_file(step.settings)}
    if step.command == "pilot":
        return own | {"dataset": _hash_for_pilot(files.reads["dataset"])}
    folders = {name: path for name, path in files.reads.items() if not name.startswith("workspace")}
    if step.command != "evaluate":  # which finds out itself what has changed
        folders |= files.given
    return own | {name: _hash(path) for name, path in folders.items()}


def _hash_for_pilot(dataset: Path) -> str:
    """Hash what teachers depend on beside their images and what a pilot chooses."""
    config = load_config(dataset)
    left_out = {*NO_EFFECT, *(entry.name for entry in fields(TeacherSetting))}
    names = [f"dreambooth.{entry.name}" for entry in fields(config.dreambooth) if entry.name not in left_out]
    names += ["preprocess.size", "preprocess.held_out"]
    return hash_value({"base": config.base.name, **settings_of(config, *names)})


def _hash(path: Path) -> str:
    if path.is_file():
        return hash_file(path)
    found = sorted(file for file in path.rglob("*.safetensors") if file.is_file())
    return hash_value([[file.relative_to(path).as_posix(), *_size_and_time(file)] for file in found])


def _size_and_time(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
