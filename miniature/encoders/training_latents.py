"""Latents of training people's images, which PhotoMaker and InstantID are trained on.

Errors at the eyes weigh more, as in the training of the base model and of LoRAs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from difflora_core.files import read_tensors
from miniature.base_model.train import encode_block, loss_weights
from miniature.base_model.vae import TinyVAE
from miniature.world.image_blocks import BLOCK, training_blocks

MIN_TIMESTEP = 100
"""Of training: below it hardly any noise is left, and nothing about a face can be learned."""


class TrainingLatents:
    """Latents of the images of the first training people, kept in files."""

    def __init__(self, build: Path, people: int, vae: TinyVAE) -> None:
        """Encode what has not been encoded, and read all of them.

        Args:
            build: The scratch folder, with the drawn images.
            people: The first so many; whole blocks.
            vae: The base model's.
        """
        blocks = [block for block in training_blocks() if block.people[-1] < people]
        for block in tqdm(blocks, "latents", unit="block", disable=None):
            encode_block(build, block, vae)
        files = [build / "latents" / f"{block.name}.safetensors" for block in blocks]
        self.blocks = [read_tensors(file)[0]["latents"] for file in files]

    def of(self, picks: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return latents of images.

        Args:
            picks: Person and image, of each image.

        Returns:
            Latents (images, 16, 16, 16) float32, and weights of their loss (images, 1, 16, 16), mean 1.
        """
        latents = [self.blocks[person // BLOCK][person % BLOCK, image] for person, image in picks]
        return torch.stack(latents).float(), torch.stack([loss_weights(*pick) for pick in picks])
