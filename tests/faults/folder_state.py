"""What lies in a folder: contents to compare, files that nobody could read, what should have been removed."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from difflora_core.files import read_tensors

LEFT_OUT = {
    "events.out.tfevents.*": "TensorBoard's, one for each process, with its time in the name and in every entry",
    "plan/plan.json": "what the last run of the stage pack had to write; a resumed run had less",
    ".lock": "the file that a lock is held on; it stays, and is checked to be free",
}
"""Files that are not compared, and why."""
IGNORED = (
    (re.compile(rb'"seconds": [0-9.e-]+'), b'"seconds": -'),  # of a record: how long the item took
    (re.compile(rb'\\"date\\": \\"[0-9-]+'), rb"\"date\": \"-"),  # of a checkpoint's provenance
)
"""Parts of files that are not compared: they are times."""
LEFTOVER = re.compile(r"\..*\.(partial|old)|\.lock\.json|.*\.tmp")


def files(folder: Path) -> Iterator[Path]:
    """Yield all files, without those of folders and files that are only being written."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(LEFTOVER.fullmatch(part) for part in parts):
            yield path


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of each file's content by its path, without what `LEFT_OUT` and `IGNORED` list."""
    found = {}
    for path in files(folder):
        if any(path.match(pattern) for pattern in LEFT_OUT):
            continue
        content = path.read_bytes()
        for pattern, replacement in IGNORED:
            content = pattern.sub(replacement, content)
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Say of each file that is missing, too many or another one."""
    lines = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"{name} is too many" for name in sorted(found.keys() - expected.keys())]
    return lines + [
        f"{name} differs" for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]
    ]


def damaged(folder: Path) -> list[str]:
    """Read every file as its readers do; say which could not be read, and why."""
    lines = []
    for path in files(folder):
        try:
            _read(path)
        except Exception as error:  # whatever a reader says
            lines.append(f"{path.relative_to(folder)} is damaged: {type(error).__name__}: {error}")
    return lines


def _read(path: Path) -> None:
    if path.suffix == ".safetensors":
        read_tensors(path)
    elif path.suffix in (".json", ".yaml"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".npy":
        np.load(path, allow_pickle=False)


def leftovers(*folders: Path) -> list[str]:
    """Name what should have been removed, and locks that are still held."""
    lines = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if LEFTOVER.fullmatch(path.name):
                lines.append(f"{path.relative_to(folder)} is left")
            elif path.name == ".lock":
                try:
                    with FileLock(path, blocking=False):
                        pass
                except Timeout:
                    lines.append(f"{path.relative_to(folder)} is held")
    return lines
