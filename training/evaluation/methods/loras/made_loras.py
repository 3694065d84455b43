"""Methods that make a LoRA of a person, which then goes the way of any LoRA file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from difflora_core.files import read_shapes, write_tensors
from difflora_core.lora.file_formats import storable
from difflora_core.lora.lora import LoRA
from training.lora_dataset.fingerprints import Fingerprint, hash_value

from ...people_folders import EvaluatedPerson
from ..shared_base import ReadyBase, SharedBase
from .given_loras import size_of

MADE_FROM, SECONDS = "evaluation_made_from", "evaluation_seconds"
"""Entries of a LoRA file's metadata: a hash of what it was made from, and how long it took."""


class MadeLoRAs(ABC):
    """LoRAs are kept in a folder: an interrupted run goes on with them, and they may be used otherwise."""

    references: int | None
    """How many of a person's references are used; None: all."""
    placement: str
    """Where the method's words stand in prompts."""

    def __init__(self, base: SharedBase, subject: str, folder: Path) -> None:
        """Name what is shared.

        Args:
            base: The shared base model.
            subject: In place of {person}.
            folder: For PERSON.safetensors.
        """
        self.base, self.subject, self.folder = base, subject, folder

    @abstractmethod
    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Say what a person's LoRA is made from.

        Raises:
            FileNotFoundError: Something is not there.
            ValueError: The person can't be used.
        """

    @abstractmethod
    def make(self, person: EvaluatedPerson) -> tuple[LoRA, float | None]:
        """Make a person's LoRA; it is returned with the seconds that it took, models loaded and warm.

        Raises:
            FileNotFoundError: A model is not there.
            ValueError: The person can't be used.
        """

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, the prompts' words and the person's LoRA; it fails as `origin` does."""
        return {**self.base.fingerprint, "method.subject": self.subject, **self.origin(person)}

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator[ReadyBase]:
        """Make the person's LoRA, unless its file is there, and load it; it fails as `make` does."""
        path, digest = self.folder / f"{person.name}.safetensors", hash_value(dict(self.origin(person)))
        if (metadata := _metadata(path)).get(MADE_FROM) != digest:
            lora, seconds = self.make(person)
            metadata = {**lora.metadata, MADE_FROM: digest, SECONDS: "" if seconds is None else repr(seconds)}
            write_tensors(path, storable(lora.state_dict()), metadata)
        took = metadata.get(SECONDS)
        with self.base.model.loaded_lora_file(path):
            yield ReadyBase(self.base, self.subject, size_of(path, float(took) if took else None))


def _metadata(path: Path) -> dict[str, str]:
    """Read a file's metadata; of one that is not there or damaged, nothing."""
    try:
        return dict(read_shapes(path)[1])
    except (FileNotFoundError, ValueError):
        return {}
