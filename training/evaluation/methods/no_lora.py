"""The base model alone: what a method has to add to, and how far likeness comes by chance."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from training.lora_dataset.fingerprints import Fingerprint

from ..people_folders import EvaluatedPerson
from .method import ImageRequest, MadeImage, Preparation
from .shared_base import ReadyBase, SharedBase


class NoLoRA:
    """The base model; its images are the same for all people, and are generated once in a run."""

    def __init__(self, base: SharedBase, subject: str) -> None:
        self.base, self.subject = base, subject
        self.references: int | None = None
        self.placement = f'"{subject}" in place of {{person}}; the same images for all people'
        self._made: dict[ImageRequest, MadeImage] = {}

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model and the prompts' words."""
        return {**self.base.fingerprint, "method.subject": self.subject}

    def release(self) -> None:
        """Forget the images; the base model is shared."""
        self._made.clear()

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator[ReadyBase]:
        """Change nothing."""
        yield ReadyOnce(self.base, self.subject, self._made)


class ReadyOnce(ReadyBase):
    """The shared base model, whose images are the same for all people and are remembered."""

    def __init__(
        self,
        base: SharedBase,
        subject: str,
        made: dict[ImageRequest, MadeImage],
        preparation: Preparation | None = None,
    ) -> None:
        super().__init__(base, subject, preparation)
        self.made = made

    def generate(self, requests: Sequence[ImageRequest]) -> list[MadeImage]:
        """Generate the images that nobody has yet."""
        new = [request for request in requests if request not in self.made]
        if new:
            self.made.update(zip(new, super().generate(new), strict=True))
        return [self.made[request] for request in requests]
