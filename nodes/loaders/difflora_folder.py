"""The checkpoints in models/difflora, and what they say of themselves before they are loaded."""

from pathlib import Path

import folder_paths

from ...difflora_core.checkpoint import read_checkpoint_header
from ...difflora_core.files import open_tensors

FOLDER = "difflora"
NO_CHECKPOINT = "no DiffLoRA checkpoint found"
HOW_TO_GET_ONE = (
    "No checkpoint for SDXL is published: docs/training.md of this pack says how to train one. "
    "`python -m nox -s serve` in this pack's folder shows all nodes with a small one."
)


def checkpoints() -> list[str]:
    """List the files that may be checkpoints."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]


def check_checkpoint_name(name: str) -> None:
    """Check that a file is there.

    Raises:
        FileNotFoundError: It is not; the message says what to do.
    """
    found = checkpoints()
    if not found:
        raise FileNotFoundError(f"there is no DiffLoRA checkpoint in models/{FOLDER}. {HOW_TO_GET_ONE}")
    if name not in found:
        raise FileNotFoundError(
            f"there is no {name!r} in models/{FOLDER}, only {', '.join(found)}: choose one of them in Load DiffLoRA"
        )


def checkpoint_path(name: str) -> Path:
    """Return the path of one of the files."""
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def face_encoders() -> dict[str, str]:
    """Name the InsightFace model pack that each readable checkpoint was trained with, by the checkpoint's name."""
    found = {}
    for name in checkpoints():
        try:
            path = checkpoint_path(name)
            with open_tensors(path) as file:
                _, config = read_checkpoint_header(path, file.metadata() or {}, file.keys())
        except (OSError, ValueError):
            continue  # Load DiffLoRA says what is wrong with it
        found[name] = config.encoders.face
    return found
