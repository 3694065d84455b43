"""Methods that make a safetensors file of a person, with which the shared base model then generates."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from difflora_core.files import read_shapes, write_tensors
from training.lora_dataset.fingerprints import Fingerprint, hash_value

from ..people_folders import EvaluatedPerson
from .shared_base import ReadyBase, SharedBase

MADE_FROM, SECONDS = "evaluation_made_from", "evaluation_seconds"
"""Entries of a file's metadata: a hash of what it was made from, and how long it took."""


@dataclass(frozen=True)
class Made:
    """What a method made of a person."""

    tensors: Mapping[str, Tensor]
    """Of the file, by name."""
    metadata: Mapping[str, str]
    """Of the file."""
    seconds: float | None
    """What it took, models loaded and warm; None was not measured."""


class MadeFiles(ABC):
    """Files are kept in a folder: an interrupted run goes on with them, and they may be used otherwise."""

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
        """Say what a person's file is made from.

        Raises:
            FileNotFoundError: Something is not there.
            ValueError: The person can't be used.
        """

    @abstractmethod
    def make(self, person: EvaluatedPerson) -> Made:
        """Make what a person's file holds.

        Raises:
            FileNotFoundError: A model is not there.
            ValueError: The person can't be used.
        """

    @abstractmethod
    def loaded(self, path: Path) -> AbstractContextManager[None]:
        """While open, the base model holds a file.

        Raises:
            ValueError: It can't be loaded.
        """

    @abstractmethod
    def ready(self, path: Path, seconds: float | None) -> ReadyBase:
        """Return what generates with a loaded file, which was made in `seconds`."""

    def file(self, person: EvaluatedPerson) -> Path:
        """Return a person's file."""
        return self.folder / f"{person.name}.safetensors"

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, the prompts' words and the person's file; it fails as `origin` does."""
        return {**self.base.fingerprint, "method.subject": self.subject, **self.origin(person)}

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator[ReadyBase]:
        """Make the person's file, unless it is there, and load it; it fails as `make` does."""
        path, digest = self.file(person), hash_value(dict(self.origin(person)))
        if (metadata := _metadata(path)).get(MADE_FROM) != digest:
            made = self.make(person)
            seconds = "" if made.seconds is None else repr(made.seconds)
            metadata = {**made.metadata, MADE_FROM: digest, SECONDS: seconds}
            write_tensors(path, made.tensors, metadata)
        took = metadata.get(SECONDS)
        with self.loaded(path):
            yield self.ready(path, float(took) if took else None)


def _metadata(path: Path) -> dict[str, str]:
    """Read a file's metadata; of one that is not there or damaged, nothing."""
    try:
        return dict(read_shapes(path)[1])
    except (FileNotFoundError, ValueError):
        return {}
