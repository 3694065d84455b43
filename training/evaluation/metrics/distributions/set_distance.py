"""FID and KID against a named set of real images.

FID depends on the number of images (isotropic Gaussians of 2048 features and 750 images have an FID of 2,078 to
themselves), on the reference set and on the network. Therefore a set as large as the reference is demanded, and a
second set of real images is to be a row of the table: no method can be expected to be better than real against real.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from difflora_core.images import ImageSource

from ..metric import Better, Description
from .frechet import frechet_distance
from .kernel import kernel_distance

Item = TypeVar("Item")
FRECHET, KERNEL = "FID", "KID × 1000"


class Features(Protocol):
    """A network's features of images."""

    @property
    def description(self) -> Description:
        """Say what they are."""

    def __call__(self, images: Sequence[ImageSource], what: str = "image") -> Tensor:
        """Compute features (images, width) of images, which errors call `what`."""


class SetDistance:
    """FID and KID. With another network than Inception name the columns otherwise, since values are not comparable."""

    def __init__(
        self, features: Features, reference: Sequence[ImageSource], reference_name: str, suffix: str = ""
    ) -> None:
        """Compute the features of the reference set.

        Args:
            features: Of which network.
            reference: Real images.
            reference_name: What they are, for the report.
            suffix: Of the columns' names.

        Raises:
            ValueError: There are fewer than two images, or one can't be used.
        """
        if len(reference) < 2:
            raise ValueError(f"the reference set {reference_name} has {len(reference)} images, expected two or more")
        self.features, self.reference_name, self.suffix = features, reference_name, suffix
        self.reference = features(reference, "reference image")

    @property
    def columns(self) -> Mapping[str, Better]:
        """FID and KID; both "lower"."""
        return {f"{FRECHET}{self.suffix}": "lower", f"{KERNEL}{self.suffix}": "lower"}

    @property
    def description(self) -> Description:
        """Say what it is."""
        features = self.features.description
        return Description(
            features.model,
            f"{features.layer}; Fréchet distance, and kernel distance of all images at once, between "
            f"{len(self.reference)} generated and as many real images: {self.reference_name}",
            features.preprocessing,
            "FID (arXiv 1706.08500), KID (arXiv 1801.01401)",
        )

    def score(self, images: Sequence[ImageSource]) -> Mapping[str, float]:
        """Measure a method's images, or other real ones.

        Raises:
            ValueError: They are not as many as the reference set has, or one can't be used.
        """
        if len(images) != len(self.reference):
            raise ValueError(
                f"FID depends on the number of images: expected {len(self.reference)}, as many as the reference set "
                f"{self.reference_name} has, found {len(images)}"
            )
        found = self.features(images)
        distances = (frechet_distance(found, self.reference), 1000.0 * kernel_distance(found, self.reference))
        return dict(zip(self.columns, distances, strict=True))


def disjoint_sets(items: Sequence[Item], size: int, generator: torch.Generator) -> tuple[list[Item], list[Item]]:
    """Draw a reference set and a second set of real images for the row real against real.

    Args:
        items: Real images, or their paths.
        size: Of each set.
        generator: Source of the draw.

    Raises:
        ValueError: There are not enough.
    """
    if len(items) < 2 * size:
        raise ValueError(f"two sets of {size} real images need {2 * size}, found {len(items)}")
    drawn = [items[row] for row in torch.randperm(len(items), generator=generator)[: 2 * size].tolist()]
    return drawn[:size], drawn[size:]
