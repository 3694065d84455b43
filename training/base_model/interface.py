"""What training needs of a frozen base model. Another base model is added by writing this interface for it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Dtypes by the names that settings use."""

TextEmbeddings = Mapping[str, Tensor]
"""What a base model makes of captions: tensors by name, each (captions, …). Only the base model knows their meaning."""


class BaseModel(Protocol):
    """A frozen latent diffusion model, with its text encoders, its autoencoder and its sampler."""

    device: torch.device
    """Where it computes."""
    dtype: torch.dtype
    """Of the U-Net and the text encoders."""

    @property
    def unet(self) -> nn.Module:
        """The network that LoRAs change."""

    def scheduler(self) -> Any:
        """Return the noise schedule that the model was trained with, as diffusers' DDPMScheduler."""

    def layout(self, rank: int, feed_forward: bool) -> LoRALayout:
        """Return the layout of LoRAs for this U-Net."""

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latent of a square image of `size` pixels."""

    def encode_text(self, captions: Sequence[str]) -> TextEmbeddings:
        """Encode captions; gradients reach the embeddings of added tokens."""

    def word_vectors(self, word: str) -> Mapping[str, Tensor]:
        """Return a word's embedding in each text encoder, float32 (1, width), by the encoder's name."""

    def added_token(self, token: str, vectors: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """While open, `token` in captions stands for n tokens with these embeddings, (n, width) by encoder."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode images (n, 3, h, w) in [0, 1] into scaled latents (n, channels, …) float32, the same in every run."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (n, channels, …) into images (n, 3, h, w) float32 in [0, 1]."""

    def predict(self, noisy: Tensor, timesteps: Tensor, texts: TextEmbeddings, size: int) -> Tensor:
        """Run the U-Net for a training step on uncropped square images of `size` pixels.

        Args:
            noisy: Noisy latents (n, channels, …).
            timesteps: int64 (n,).
            texts: As `encode_text` returns them, n captions.
            size: Pixels of a side.

        Returns:
            What the scheduler's prediction type names, float32, of the shape of `noisy`.
        """

    def use_sampler(self, name: str) -> None:
        """Generate by another sampler: the name of a scheduler of diffusers, which keeps the model's noise schedule."""

    def generate(
        self,
        captions: Sequence[str],
        size: int,
        steps: int,
        guidance: float,
        seed: int | Sequence[int],
        batch: int = 4,
        negative: str = "",
    ) -> Tensor:
        """Generate images (n, 3, size, size) float32 in [0, 1].

        Image i depends on its caption and on `seed` and i alone, or on its own seed alone where there is one for each.
        """

    def unet_on_device(self) -> AbstractContextManager[None]:
        """While open, the U-Net is on its device; afterwards all networks wait in host memory."""

    def loaded_lora(self, flat: Tensor, layout: LoRALayout) -> AbstractContextManager[None]:
        """While open, the U-Net holds a LoRA (numel,), which was written to a file and read by the usual loader."""

    def loaded_lora_file(self, path: Path) -> AbstractContextManager[None]:
        """While open, the model holds a LoRA file of any program, as its usual loader reads it."""

    def lora_on_positive_side(self) -> AbstractContextManager[None]:
        """While open, the LoRA that is loaded acts on the positive prompt alone where images are generated."""
