"""What a step is made from, so that a later change of it is noticed."""

from pathlib import Path

from training.lora_dataset.fingerprints import hash_file, hash_value

from .recipe import Step
from .step_files import StepFiles


def inputs_of(step: Step) -> dict[str, str]:
    """Hash what a step is made from, by setting.

    Settings and networks are hashed by content. Of folders, such as a store of many gigabytes, names, sizes and times
    of the files count.

    Raises:
        FileNotFoundError: The settings file is not there.
    """
    files: StepFiles = step.files
    folders = {name: path for name, path in files.reads.items() if not name.startswith("workspace")}
    return {"settings": hash_file(step.settings)} | {name: _hash(path) for name, path in folders.items()}


def _hash(path: Path) -> str:
    if path.is_file():
        return hash_file(path)
    found = sorted(file for file in path.rglob("*.safetensors") if file.is_file())
    return hash_value([[file.relative_to(path).as_posix(), *_size_and_time(file)] for file in found])


def _size_and_time(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
