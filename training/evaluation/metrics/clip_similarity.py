"""CLIP-I and CLIP-T: does an image resemble the real ones, does it show what its prompt says?

Both as in DreamBooth (Ruiz et al., arXiv 2208.12242, section 4.1): mean cosine of generated and real images' CLIP
embeddings, and cosine of an image's with its prompt's. That paper and DreamBench++ use ViT-B/32; other papers ViT-L/14,
so that both are worth reporting. Values are raw cosines: neither times 100 nor clamped at zero as in CLIPScore.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch

from .clip_embedding import ClipEmbedding
from .cosines import likeness_columns, likeness_scores
from .metric import Better, Description, PersonSample, Scores


class ClipSimilarity:
    """CLIP-T, and CLIP-I with the references and with the person's other images, by one CLIP model."""

    def __init__(self, clip: ClipEmbedding) -> None:
        """Use a CLIP model, whose name becomes a part of the columns' names."""
        self.clip = clip
        self.text_column, self.image_column = f"CLIP-T {clip.vit}", f"CLIP-I {clip.vit}"

    @classmethod
    def open(cls, name: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load a CLIP model: OpenAI's ViT-B/32 or ViT-L/14 (`openai/clip-vit-base-patch32`, `…-large-patch14`).

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is damaged or another kind of model.
        """
        return cls(ClipEmbedding.open(name, "the CLIP model of CLIP-I and CLIP-T", device))

    @property
    def columns(self) -> Mapping[str, Better]:
        """CLIP-T, CLIP-I with references, CLIP-I with other images."""
        return {self.text_column: "higher", **likeness_columns(self.image_column)}

    @property
    def description(self) -> Description:
        """Say what it is."""
        return Description(
            model=f"CLIP {self.clip.vit}, {self.clip.origin}",
            layer="projected embeddings; cosine with the prompt's, mean cosine over pairs with real images",
            preprocessing=str(self.clip.preprocessing),
            source="DreamBooth (arXiv 2208.12242, section 4.1)",
        )

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images.

        Raises:
            ValueError: An image can't be used; it is named.
        """
        generated = self.clip.images(sample.images)
        text_cosines = np.asarray((generated.double() * self.clip.texts(sample.prompts).double()).sum(-1))
        return {
            self.text_column: text_cosines,
            **likeness_scores(self.image_column, self.clip.images, generated, sample),
        }
