"""Any method that is a LoRA, on the positive prompt's side alone: its setting `side`."""

from collections.abc import Iterator
from contextlib import contextmanager

from training.lora_dataset.fingerprints import Fingerprint

from ...people_folders import EvaluatedPerson
from ..method import Method, Ready
from ..shared_base import SharedBase


class OnPositiveSide:
    """Prepares as the method does, makes images with hybrid guidance."""

    def __init__(self, method: Method, base: SharedBase) -> None:
        """Wrap a method.

        Args:
            method: It loads a LoRA into the shared base model.
            base: The shared base model.
        """
        self.method, self.base, self.references = method, base, method.references
        self.placement = (
            f"{method.placement}; side positive: the LoRA acts on the positive prompt alone, guidance moves away from "
            "the base model's prediction"
        )

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the method, and the side; it fails as the method's does."""
        return {**self.method.fingerprint(person), "method.side": "positive"}

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator[Ready]:
        """Load the person's LoRA as the method does, and keep it from the negative prompt; it fails as that does."""
        with self.method.prepare(person) as ready, self.base.model.lora_on_positive_side():
            yield ready

    def release(self) -> None:
        """Free the method's models."""
        self.method.release()
