"""The frozen image encoder: a CLIP vision model in transformers' format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..files import read_shapes

BATCH = 32
"""Images that are encoded at a time: a thousand references need no more memory than these."""


class ImageEncoder:
    """A CLIP vision model on reference images."""

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        """Use transformers' CLIP vision model with projection.

        Args:
            model: The model, on its device.
            mean: Mean of each color channel in [0, 1], which images are normalized by.
            std: Standard deviation of each channel.
        """
        self.model, self.size = model.eval(), int(model.config.image_size)
        self.mean, self.std = (torch.tensor(list(v)).view(3, 1, 1) for v in (mean, std))

    @classmethod
    def open(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load config.json, model.safetensors and preprocessor_config.json of a folder; nothing is downloaded.

        Raises:
            FileNotFoundError: They are not there.
            ValueError: They can't be read, or are another kind of model.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"No CLIP vision model in {folder}: expected config.json, model.safetensors and "
                "preprocessor_config.json."
            )
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        try:
            processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except Exception as error:  # transformers, safetensors and json have their own kinds
            weights = folder / "model.safetensors"
            if weights.is_file():
                read_shapes(weights)  # says more, if it is the weights
            problem = " ".join(str(error).split())[:300]
            raise ValueError(f"The CLIP vision model in {folder} can't be loaded: {problem}") from error
        # In float32 whatever the file has, as ComfyUI computes; newer transformers would keep float16
        return cls(model.float().to(device), processor.image_mean, processor.image_std)

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Compute the projected embeddings (`image_embeds`).

        Args:
            images: uint8 (height, width, 3) RGB each.

        Returns:
            (images, width) float32.
        """
        chunks = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        pixels = (torch.stack([self.preprocess(image) for image in chunk]) for chunk in chunks)
        return torch.cat([self.model(pixel_values=one.to(self.model.device)).image_embeds for one in pixels])

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize the shorter side (bicubic, antialiased), crop the center and normalize: (3, size, size).

        The order of roundings is that of ComfyUI's CLIP vision, so that both give the same embedding of an image.
        """
        pixels = torch.from_numpy(np.array(image[..., :3])).permute(2, 0, 1)[None].float() / 255.0
        height, width = pixels.shape[-2:]
        if (height, width) != (self.size, self.size):
            scale = self.size / min(height, width)
            target = (round(scale * height), round(scale * width))
            pixels = F.interpolate(pixels, size=target, mode="bicubic", antialias=True)
            top, left = (target[0] - self.size) // 2, (target[1] - self.size) // 2
            pixels = pixels[..., top : top + self.size, left : left + self.size]
        pixels = (255.0 * pixels).clamp(0, 255).round() / 255.0
        return (pixels[0] - self.mean) / self.std
