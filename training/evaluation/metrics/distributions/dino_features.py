"""DINO's class tokens for distances between sets of images.

Inception was trained to tell ImageNet's classes, of which people are none; self-supervised features are proposed in its
place (Stein et al., arXiv 2306.04675, which takes DINOv2). Here they are those of the metric that is measured anyway,
before it makes them unit length: the kernel distance divides products by the width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from difflora_core.images import ImageSource

from ..dino_similarity import DinoSimilarity
from ..metric import Description


class DinoFeatures:
    """The class token of the last hidden state."""

    def __init__(self, dino: DinoSimilarity) -> None:
        """Use the metric's network."""
        self.dino = dino

    @classmethod
    def open(cls, name: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load the network; see `DinoSimilarity.open`.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is damaged or another kind of model.
        """
        return cls(DinoSimilarity.open(name, device))

    @property
    def description(self) -> Description:
        """Say what they are."""
        return Description(
            model=f"{self.dino.name}, {self.dino.origin}",
            layer="class token of the last hidden state, no pooler",
            preprocessing=str(self.dino.preprocessing),
            source="arXiv 2306.04675",
        )

    def __call__(self, images: Sequence[ImageSource], what: str = "image") -> Tensor:
        """Compute features (images, width), float32.

        Raises:
            ValueError: See `read_images`.
        """
        return self.dino.class_tokens(images, what)
