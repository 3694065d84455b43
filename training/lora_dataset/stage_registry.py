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
SENTENCES = {
    "collect": "find faces in your images and sort them by person; near-duplicates are merged or dropped",
    "generate": "make varied images of each person with PhotoMaker",
    "filter": "drop images without one large, sharp, similar face, each with its reason",
    "preprocess": "crop and caption images, and compute latents and text embeddings once",
    "dreambooth": "train a LoRA for each person, many people in one batch",
    "pack": "write the LoRAs into a store, split by person into train, validation and test",
    "verify": "test some LoRAs: likeness, held-out loss, a contact sheet",
}
"""What each stage does."""
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
