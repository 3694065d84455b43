"""The base model alone: what a method has to add to, and how far likeness comes by chance."""

from collections.abc import Iterator
from contextlib import contextmanager

from training.lora_dataset.fingerprints import Fingerprint

from ..people_folders import EvaluatedPerson
from .shared_base import ReadyBase, SharedBase


class NoLoRA:
    """The base model; its images are the same for all people, and generated for each nevertheless."""

    def __init__(self, base: SharedBase, subject: str) -> None:
        self.base, self.subject = base, subject
        self.references: int | None = None
        self.placement = f'"{subject}" in place of {{person}}'

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model and the prompts' words."""
        return {**self.base.fingerprint, "method.subject": self.subject}

    def release(self) -> None:
        """Free nothing: the base model is shared."""

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator[ReadyBase]:
        """Change nothing."""
        yield ReadyBase(self.base, self.subject)
