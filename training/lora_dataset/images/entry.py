"""What the sources of images have in common: a person's entry, and an image of it that has not been read yet."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class Source(Protocol):
    """One image that has not been read yet."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def read(self) -> Image.Image:
        """Read the image in RGB.

        Raises:
            ValueError: It cannot be read; the message names it and the reason.
        """

    def caption(self) -> str:
        """Return what the source says about the image, "" for nothing.

        Raises:
            ValueError: It cannot be read; the message names it and the reason.
        """

    def content_hash(self) -> str:
        """Hash what `read` and `caption` read."""


@dataclass(frozen=True)
class Entry:
    """A candidate person."""

    item: str
    """The item's name."""
    origin: str
    """What it is called at the source."""
    sources: tuple[Source, ...]
    """Its images in order."""
    passed_over: tuple[str, ...] = ()
    """Names of files beside them that are not taken for images; where each image is a person, the first has all."""
