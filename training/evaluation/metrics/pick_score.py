"""PickScore: which of two images of a prompt would people prefer?

Kirstain et al., arXiv 2305.01569: CLIP ViT-H/14, trained on choices of people. The score is the cosine of image and
prompt times the model's learned scale, as in the official repository: about 20 for common
images. Differences of it are log odds of preference.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch

from .clip_embedding import ClipEmbedding
from .metric import Better, Description, PersonSample, Scores

COLUMN = "PickScore"


class PickScore:
    """PickScore of each image with its prompt."""

    def __init__(self, clip: ClipEmbedding) -> None:
        """Use a CLIP model that was trained on preferences."""
        self.clip = clip
        self.scale = float(clip.model.logit_scale.exp())

    @classmethod
    def open(cls, name: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load `yuvalkirstain/PickScore_v1` from a folder or the hub's cache.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is damaged or another kind of model.
        """
        return cls(ClipEmbedding.open(name, "the PickScore model", device))

    @property
    def columns(self) -> Mapping[str, Better]:
        """PickScore."""
        return {COLUMN: "higher"}

    @property
    def description(self) -> Description:
        """Say what it is."""
        return Description(
            model=f"PickScore, CLIP {self.clip.vit}, {self.clip.origin}",
            layer=f"cosine of the projected embeddings of image and prompt × {self.scale:.4g}, the model's logit scale",
            preprocessing=str(self.clip.preprocessing),
            source="Pick-a-Pic (arXiv 2305.01569)",
        )

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images.

        Raises:
            ValueError: An image can't be used; it is named.
        """
        cosines = (self.clip.images(sample.images).double() * self.clip.texts(sample.prompts).double()).sum(-1)
        return {COLUMN: self.scale * np.asarray(cosines)}
