"""DINO: does an image resemble the real ones in what distinguishes subjects of one kind?

As in DreamBooth (Ruiz et al., arXiv 2208.12242, section 4.1), with ViT-S/16 of DINO (Caron et al., arXiv 2104.14294):
the last hidden state's class token after the final layer norm, and the original evaluation's preprocessing (shorter
side to 256, bicubic, center crop 224, ImageNet's statistics). The hub's preprocessor_config.json differs (224 bilinear,
statistics 0.5), and its pooler was never trained; neither is read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.images import ImageSource

from .clip_embedding import LETTERS
from .content_cache import ContentCache
from .cosines import likeness_columns, likeness_scores
from .metric import Better, Description, PersonSample, Scores
from .model_files import WEIGHTS, load_pretrained, model_folder
from .pixels import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, require_finite

MARGIN = 256 / 224
"""Resized side over crop."""


class DinoSimilarity:
    """DINO with the references and with the person's other images."""

    def __init__(self, model: Any, origin: str) -> None:
        """Use a network.

        Args:
            model: transformers' ViTModel without pooler, on its device.
            origin: Where it was read from, for the report.
        """
        self.model, self.origin = model, origin
        crop = int(model.config.image_size)
        self.preprocessing = Preprocessing(round(MARGIN * crop), crop, IMAGENET_MEAN, IMAGENET_STD)
        self._rows = ContentCache(self._class_tokens)

    @classmethod
    def open(cls, name: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load a folder in transformers' layout, or a model in the hub's cache: `facebook/dino-vits16`.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is damaged or another kind of model.
        """
        from transformers import ViTModel

        what = "the DINO model"
        folder = model_folder(name, what, (("config.json",), WEIGHTS))
        # from_pretrained and not load_state_dict: it knows the names of older files
        model = load_pretrained(ViTModel, folder, what, ignored="pooler.", add_pooling_layer=False)
        return cls(model.to(device), str(name))

    @property
    def name(self) -> str:
        """Name of the columns, with that of the network."""
        config = self.model.config
        return f"DINO ViT-{LETTERS.get(config.hidden_size, config.hidden_size)}/{config.patch_size}"

    @property
    def columns(self) -> Mapping[str, Better]:
        """DINO with references, DINO with other images."""
        return likeness_columns(self.name)

    @property
    def description(self) -> Description:
        """Say what it is."""
        return Description(
            model=f"{self.name}, {self.origin}",
            layer="class token of the last hidden state, no pooler; mean cosine over pairs with real images",
            preprocessing=str(self.preprocessing),
            source="DreamBooth (arXiv 2208.12242, section 4.1); preprocessing of DINO's own evaluation",
        )

    def embed(self, images: Sequence[ImageSource], what: str = "image") -> Tensor:
        """Embed images: unit-length float32 (images, width).

        Raises:
            ValueError: See `read_images`.
        """
        return F.normalize(self.class_tokens(images, what), dim=-1)

    def class_tokens(self, images: Sequence[ImageSource], what: str = "image") -> Tensor:
        """Compute class tokens as the network gives them: float32 (images, width).

        Raises:
            ValueError: See `read_images`.
        """
        return torch.stack(self._rows(images, what))

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images.

        Raises:
            ValueError: An image can't be used; it is named.
        """
        return likeness_scores(self.name, self.embed, self.embed(sample.images), sample)

    @torch.no_grad()
    def _class_tokens(self, images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        pixels = self.preprocessing(images).to(self.model.device)
        return list(require_finite(self.model(pixel_values=pixels).last_hidden_state[:, 0], "DINO").cpu())
