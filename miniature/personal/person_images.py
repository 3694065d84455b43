"""Training people's pictures as latents with captions, for losses through the base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from miniature.base_model.model import BaseModel, Condition, Tokenizer, load_latents, noise_scheduler
from miniature.base_model.vae import TinyVAE
from miniature.world.drawing import draw
from miniature.world.image_blocks import scene_of, training_blocks
from miniature.world.people import caption, person
from training.base_model.diffusion_loss import PersonImages
from training.base_model.lora_loss import LoRADiffusionLoss

from .teachers import layout

MAX_IMAGES_PER_PERSON = 64
"""Numbers of a person's pictures in text numbers; nobody has so many."""


def album(index: int, latents: Tensor) -> PersonImages:
    """A person's album. latents: (pictures, 4, 16, 16) of the scenes that `pictures.scene_of` gives."""
    return PersonImages.whole(f"{index}", latents, MAX_IMAGES_PER_PERSON * index + torch.arange(len(latents)))


def training_albums(build: Path) -> dict[int, PersonImages]:
    """Albums of all training people whose pictures were drawn, by person."""
    latents = load_latents(build / "latents")
    return {
        index: album(index, latents[block.name][row])
        for block in training_blocks()
        if block.name in latents
        for row, index in enumerate(block.people)
    }


@torch.no_grad()
def draw_albums(vae: TinyVAE, people: Sequence[int], pictures: int = 6) -> list[PersonImages]:
    """Albums of other people, drawn now: for validation."""
    albums = []
    for index in people:
        pixels = np.stack([draw(person(index), scene_of(index, k)).image for k in range(pictures)])
        stack = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
        albums.append(album(index, vae.encode(stack.contiguous(memory_format=torch.channels_last)).contiguous()))
    return albums


def diffusion_loss(base: BaseModel, tokenizer: Tokenizer, rows: int = 4, seed: int = 0) -> LoRADiffusionLoss:
    """The loss through the miniature's base model; captions are encoded as they come."""

    def predict(noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        with torch.no_grad():
            scenes = [scene_of(text // MAX_IMAGES_PER_PERSON, text % MAX_IMAGES_PER_PERSON) for text in texts.tolist()]
            condition = base.encode(tokenizer([caption(scene) for scene in scenes]))
        return base.predict(noisy, timesteps, Condition(condition.context, condition.pooled))

    return LoRADiffusionLoss(base.unet, layout(), predict, noise_scheduler(), rows, seed)
