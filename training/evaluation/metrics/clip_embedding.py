"""A CLIP model's embeddings of images and texts (Radford et al., arXiv 2103.00020)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.images import ImageSource

from .content_cache import ContentCache
from .model_files import WEIGHTS, load_pretrained, model_folder
from .pixels import Preprocessing, require_finite

LETTERS = {384: "S", 768: "B", 1024: "L", 1280: "H"}
"""How a vision transformer of a width is called."""
NEEDED = (("config.json",), ("preprocessor_config.json",), ("tokenizer.json", "vocab.json"), WEIGHTS)


class ClipEmbedding:
    """CLIP with text and vision in transformers' layout."""

    def __init__(self, model: Any, tokenizer: Any, preprocessing: Preprocessing, origin: str) -> None:
        """Use a model.

        Args:
            model: transformers' CLIPModel, on its device.
            tokenizer: Its CLIPTokenizer.
            preprocessing: Of its images.
            origin: Where it was read from, for the report.
        """
        self.model, self.tokenizer, self.preprocessing, self.origin = model, tokenizer, preprocessing, origin
        self._rows = ContentCache(self._embed)

    @classmethod
    def open(cls, name: str | Path, what: str, device: str | torch.device = "cpu") -> Self:
        """Load a folder in transformers' layout, or a model in the hub's cache.

        Args:
            name: See `model_folder`.
            what: What errors call it.
            device: Where it computes.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is damaged or another kind of model.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        folder = model_folder(name, what, NEEDED)
        model = load_pretrained(CLIPModel, folder, what, ignored="position_ids")
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            given = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            preprocessing = _preprocessing(given)
        except Exception as error:  # transformers and json have their own kinds
            problem = " ".join(str(error).split())[:300]
            raise ValueError(f"the preprocessing of {what} in {folder} can't be read: {problem}") from error
        return cls(model.to(device), tokenizer, preprocessing, str(name))

    @property
    def vit(self) -> str:
        """Name of the vision tower, such as ViT-B/32."""
        vision = self.model.config.vision_config
        return f"ViT-{LETTERS.get(vision.hidden_size, vision.hidden_size)}/{vision.patch_size}"

    def images(self, images: Sequence[ImageSource], what: str = "image") -> Tensor:
        """Embed images: unit-length float32 (images, width).

        Raises:
            ValueError: See `read_images`.
        """
        return torch.stack(self._rows(images, what))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, of which as many tokens count as the model takes (77): unit-length float32 (texts, width)."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        found = self.model.get_text_features(**tokens.to(self.model.device))
        return F.normalize(require_finite(_pooled(found), self.origin), dim=-1).cpu()

    @torch.no_grad()
    def _embed(self, images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        pixels = self.preprocessing(images).to(self.model.device)
        found = self.model.get_image_features(pixel_values=pixels)
        return list(F.normalize(require_finite(_pooled(found), self.origin), dim=-1).cpu())


def _pooled(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output  # transformers 4 and 5


def _preprocessing(processor: Any) -> Preprocessing:
    resize, crop = processor.size["shortest_edge"], processor.crop_size
    if crop["height"] != crop["width"]:
        raise ValueError(f"expected a square crop, found {dict(crop)}")
    return Preprocessing(resize, crop["height"], processor.image_mean, processor.image_std)
