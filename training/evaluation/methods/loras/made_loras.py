"""Methods that make a LoRA of a person, which then goes the way of any LoRA file."""

from contextlib import AbstractContextManager
from pathlib import Path

from difflora_core.lora.file_formats import storable
from difflora_core.lora.lora import LoRA

from ..made_files import Made, MadeFiles
from ..shared_base import ReadyBase
from .given_loras import size_of


class MadeLoRAs(MadeFiles):
    """LoRA files with kohya's names, loaded by the base model's usual loader at strength 1."""

    def loaded(self, path: Path) -> AbstractContextManager[None]:
        """While open, the base model holds a LoRA file.

        Raises:
            ValueError: It can't be loaded.
        """
        return self.base.model.loaded_lora_file(path)

    def ready(self, path: Path, seconds: float | None) -> ReadyBase:
        """Return the shared base model, with the LoRA's size."""
        return ReadyBase(self.base, self.subject, size_of(path, seconds))


def made_lora(lora: LoRA, seconds: float | None) -> Made:
    """Return a LoRA as what was made in so many seconds."""
    return Made(storable(lora.state_dict()), lora.metadata, seconds)
