"""The stages by name, in order. A stage's module is imported when the stage is loaded: each brings heavy libraries."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and the names are read without it
    from .stage import Stage

MODULES = {
    "collect": "collect",
    "generate": "generate",
    "filter": "filter",
    "preprocess": "preprocess",
    "dreambooth": "train_loras",
    "pack": "pack",
    "verify": "verify",
}
"""Stage → its module in the package `stages`."""
ORDER = tuple(MODULES)
IMAGE_STAGES = ORDER[: ORDER.index("dreambooth")]
"""Those that teacher-free training needs: images, and no LoRA of anybody."""


def load_stage(name: str) -> "Stage":
    """Load the stage of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in ORDER:
        raise ValueError(f"there is no stage {name!r}; there are {', '.join(ORDER)}")
    return getattr(import_module(f".stages.{MODULES[name]}", __package__), name.upper())
