"""What a method is: `prepare` a person, then generate images.

Another method is added by a class with these members and a case in `method_list`.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from difflora_core.seeds import derive_seed
from training.lora_dataset.fingerprints import Fingerprint

from ..people_folders import EvaluatedPerson
from ..prompt_list import Prompt


@dataclass(frozen=True)
class ImageRequest:
    """One image that is to be made."""

    prompt: Prompt
    """What it should show."""
    seed: int
    """One of the settings'."""

    @property
    def file(self) -> str:
        """Name of its file: the prompt's number and the seed."""
        return f"{self.prompt.number:02d}_{self.seed}.png"

    @property
    def noise_seed(self) -> int:
        """Seed of its noise: the same for all people and methods."""
        return derive_seed(self.seed, "evaluation", self.prompt.number)


@dataclass(frozen=True)
class MadeImage:
    """An image, and what it took."""

    image: Image.Image
    """Mode RGB."""
    seconds: float
    """Of its generation; of a batch, its share."""


class Ready(Protocol):
    """A method that a person was prepared for."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Say what the preparation took, ready for JSON, see `Preparation`; empty if it is not known."""

    def generate(self, requests: Sequence[ImageRequest]) -> Sequence[MadeImage]:
        """Make images, at most a batch.

        Raises:
            ValueError: A prompt can't be used.
            RuntimeError: The method failed.
        """


@dataclass(frozen=True)
class Preparation:
    """What a person's preparation took; None was not measured."""

    seconds: float | None = None
    """From the reference files to being ready, models loaded and warm."""
    parameters: int | None = None
    """Numbers that are the person's own."""
    bytes: int | None = None
    """Of the file that holds them."""


class Method(Protocol):
    """Makes images of people."""

    references: int | None
    """How many of a person's references it sees; None: all, or it is not known."""
    placement: str
    """For the report: where prompts have the class word, token or trigger, and what of the settings does not apply."""

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Say what a person's images depend on, beside prompts and seeds.

        Raises:
            FileNotFoundError: Something that the method needs is not there.
            ValueError: The person can't be used.
        """

    def prepare(self, person: EvaluatedPerson) -> AbstractContextManager[Ready]:
        """Prepare a person; what was changed for it is undone when the block ends.

        Raises:
            ValueError: The person can't be used.
        """

    def release(self) -> None:
        """Free models that no other method uses; they are loaded again when they are needed."""
