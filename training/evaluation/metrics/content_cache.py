"""Images that occur again are not computed again.

A person's real images are compared with every method's, and one face embedding serves several metrics.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

import numpy as np

Result = TypeVar("Result")

BATCH = 16
"""Images that are computed at a time."""


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

    def __call__(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Return each image's result."""
        keys = [blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self.known}
        for start in range(0, len(new), BATCH):
            batch = list(new.items())[start : start + BATCH]
            self.known.update(zip([key for key, _ in batch], self.compute([image for _, image in batch]), strict=True))
        return [self.known[key] for key in keys]
