"""Images that occur again are not computed again.

A person's real images are compared with every method's, and one face embedding serves several metrics.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from difflora_core.images import ImageSource

from .pixels import read_images

Result = TypeVar("Result")

BATCH = 16
"""Images that are in memory and computed at a time."""


class ContentCache(Generic[Result]):
    """A function of images that remembers what it made, by the images' content."""

    def __init__(self, compute: Callable[[Sequence[np.ndarray]], Sequence[Result]]) -> None:
        """Remember the results of a function.

        Args:
            compute: Makes a result of each image, uint8 (height, width, 3), which must not depend on the other images.
                Results are kept as long as this object: some kilobytes each.
        """
        self.compute = compute
        self.known: dict[bytes, Result] = {}

    def __call__(self, images: Sequence[ImageSource], what: str = "image") -> list[Result]:
        """Return the result of each image, which errors call `what`.

        Raises:
            ValueError: See `read_images`.
        """
        arrays, keys = read_images(images, what), []
        while batch := list(islice(arrays, BATCH)):
            keys += (own := [_key(image) for image in batch])
            new = {key: image for key, image in zip(own, batch, strict=True) if key not in self.known}
            if new:
                self.known.update(zip(new, self.compute(list(new.values())), strict=True))
        return [self.known[key] for key in keys]


def _key(image: np.ndarray) -> bytes:
    return blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()
