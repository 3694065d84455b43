"""LoRA files, one for each person: LoRA-DreamBooth's teachers, or LoRAs of any other program."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

from difflora_core.files import read_shapes
from difflora_core.lora.tensor_names import parse
from training.lora_dataset.fingerprints import Fingerprint, hash_file

from ...people_folders import EvaluatedPerson
from ..method import Preparation
from ..shared_base import ReadyBase, SharedBase


class LoRAFiles:
    """FOLDER/PERSON.safetensors, or one file for all, loaded by the base model's usual loader at strength 1."""

    def __init__(self, base: SharedBase, folder: Path, subject: str) -> None:
        self.base, self.folder, self.subject = base, folder, subject
        self.references: int | None = None
        self.placement = f'"{subject}" in place of {{person}}; LoRA at strength 1'

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, the prompts' words and the person's file.

        Raises:
            FileNotFoundError: The person has none.
        """
        return {
            **self.base.fingerprint,
            "method.subject": self.subject,
            "LoRA": hash_file(lora_file(self.folder, person)),
        }

    def release(self) -> None:
        """Free nothing: the base model is shared."""

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator[ReadyBase]:
        """Load the person's file.

        Raises:
            ValueError: It can't be loaded.
        """
        path = lora_file(self.folder, person)
        with self.base.model.loaded_lora_file(path):
            yield ReadyBase(self.base, self.subject, size_of(path))


def lora_file(place: Path, person: EvaluatedPerson) -> Path:
    """Return a person's LoRA in a folder; a file is the LoRA of all people.

    Raises:
        FileNotFoundError: There is none.
    """
    path = place if place.is_file() else place / f"{person.name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"there is no LoRA {path}: each person needs one there, named as the folder")
    return path


def size_of(path: Path, seconds: float | None = None) -> Preparation:
    """Describe a LoRA file; what made it took `seconds`."""
    shapes = {name: shape for name, shape in read_shapes(path)[0].items() if parse(name).role in ("down", "up")}
    return Preparation(seconds, sum(map(prod, shapes.values())), path.stat().st_size)
