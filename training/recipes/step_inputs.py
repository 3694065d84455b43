"""What a step is made from, so that a later change of it is noticed."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from difflora_core.command_line import progress
from training.dreambooth.config import NO_EFFECT
from training.engine.settings import read_values
from training.lora_dataset.config import load_config
from training.lora_dataset.fingerprints import hash_file, hash_files, hash_value, settings_of
from training.pilot.grid import TeacherSetting

from .recipe import Step
from .step_files import StepFiles

SETTINGS_SUFFIXES = (".yaml", ".yml")


def inputs_of(step: Step) -> dict[str, str]:
    """Hash what a step is made from, by setting.

    Of settings the values are hashed, without comments and layout; of networks the content; of folders, such as a store
    of many gigabytes, names, sizes and times of the files, then a colon and the contents. Of the dataset's settings a
    pilot depends on some, and not on those that it writes itself.

    Raises:
        FileNotFoundError: The settings file is not there.
    """
    values, paths = _inputs(step)
    return values | {name: _hash(path) for name, path in paths.items()}


def changed_inputs(step: Step, before: Mapping[str, str]) -> list[str]:
    """Return the settings by which a step would be made from something else now.

    Contents of folders are read only where sizes or times differ: a copied workspace is as current as the original.

    Args:
        step: Which one.
        before: What `inputs_of` returned when it was done.

    Raises:
        FileNotFoundError: The settings file is not there.
    """
    values, paths = _inputs(step)
    changed = {name for name, value in values.items() if before.get(name) != value}
    changed |= {name for name, path in paths.items() if not _is_same(path, before.get(name, ""))}
    return sorted(changed | before.keys() - values.keys() - paths.keys())


def _inputs(step: Step) -> tuple[dict[str, str], dict[str, Path]]:
    """Return what is hashed already, and what is to be, by setting."""
    files: StepFiles = step.files
    own = {"settings": _hash_settings(step.settings)}
    if step.command == "pilot":
        return own | {"dataset": _hash_for_pilot(files.reads["dataset"])}, {}
    paths = {name: path for name, path in files.reads.items() if not name.startswith("workspace")}
    if step.command != "evaluate":  # which finds out itself what has changed
        paths |= files.given
    return own, paths


def _hash_for_pilot(dataset: Path) -> str:
    """Hash what teachers depend on beside their images and what a pilot chooses."""
    config = load_config(dataset)
    left_out = {*NO_EFFECT, *(entry.name for entry in fields(TeacherSetting))}
    names = [f"dreambooth.{entry.name}" for entry in fields(config.dreambooth) if entry.name not in left_out]
    names += ["preprocess.size", "preprocess.held_out"]
    return hash_value({"base": config.base.name, **settings_of(config, *names)})


def _hash_settings(path: Path) -> str:
    return hash_value(repr(read_values(path)))  # its order counts, too; not all that YAML knows is ready for JSON


def _hash(path: Path) -> str:
    if path.is_file():
        return _hash_settings(path) if path.suffix.lower() in SETTINGS_SUFFIXES else hash_file(path)
    return f"{_hash_listing(path)}:{_hash_contents(path)}"


def _is_same(path: Path, before: str) -> bool:
    if path.is_file():
        return _hash(path) == before
    listing, _, contents = before.partition(":")
    return _hash_listing(path) == listing or _hash_contents(path) == contents


def _tensor_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.safetensors") if file.is_file())


def _hash_listing(folder: Path) -> str:
    files = [(file.relative_to(folder).as_posix(), file.stat()) for file in _tensor_files(folder)]
    return hash_value([[name, status.st_size, status.st_mtime_ns] for name, status in files])


def _hash_contents(folder: Path) -> str:
    files = _tensor_files(folder)
    shown = progress(files, f"reading {folder.name}", "file")  # tens of gigabytes at SDXL's size
    return hash_value([[file.relative_to(folder).as_posix() for file in files], hash_files(shown)])
