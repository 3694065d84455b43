"""People's images as latents with captions, and the diffusion loss of LoRAs on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from tqdm import tqdm

from difflora_core.diffusion_loss import stratified_timesteps
from miniature.base_model.config import lora_layout
from miniature.base_model.model import TinySDXL, Tokenizer, noise_scheduler
from miniature.base_model.train import LittleNoise, PlaceWeights, load_latents, loss_weights
from miniature.base_model.vae import TinyVAE
from miniature.world.drawing import draw
from miniature.world.image_blocks import training_blocks
from miniature.world.people import person
from miniature.world.scenes import caption, training_scene
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages

CAPTIONS_PER_PERSON = 64
"""Image k of person i has row `CAPTIONS_PER_PERSON` · i + k of the text table; no person has as many images."""
VALIDATION_IMAGES = 6
PERSON_EYES = PlaceWeights(15.0, 6.0)
"""What eyes weigh in the loss of LoRAs: more than for the base model, since they say who it is."""


def as_person_images(index: int, latents: Tensor, places: PlaceWeights = PERSON_EYES) -> PersonImages:
    """A person's images from latents (images, 16, 16, 16) in the scenes of `scenes.training_scene`."""
    captions = CAPTIONS_PER_PERSON * index + torch.arange(len(latents))
    weights = torch.cat([loss_weights(index, image, places) for image in range(len(latents))])
    return PersonImages.complete(f"{index}", latents, captions, weights)


def training_person_images(build: Path, places: PlaceWeights = PERSON_EYES) -> dict[int, PersonImages]:
    """Images of all training people that have been drawn, by person; errors weigh what `places` says."""
    latents = load_latents(build)
    return {
        index: as_person_images(index, latents[block.name][row], places)
        for block in tqdm(training_blocks(), "images", unit="block", disable=None)
        if block.name in latents
        for row, index in enumerate(block.people)
    }


def draw_person_images(vae: TinyVAE, people: Sequence[int], places: PlaceWeights = PERSON_EYES) -> list[PersonImages]:
    """Draw images of other people, for validation; errors weigh what `places` says."""
    found = []
    for index in people:
        images = [draw(person(index), training_scene(index, k)).image for k in range(VALIDATION_IMAGES)]
        found.append(as_person_images(index, vae.encode_images(np.stack(images)), places))
    return found


def diffusion_loss(
    base: TinySDXL,
    tokenizer: Tokenizer,
    images_per_person: int = 4,
    seed: int = 0,
    little_noise: LittleNoise | None = None,
) -> LoRADiffusionLoss:
    """The diffusion loss of LoRAs through the miniature's base model; captions are encoded when they are needed.

    The U-Net computes in bfloat16 and with plain attention: torch's own is slow backwards on a CPU. Forward and
    backward pass of 8 people's LoRAs together are 1.5 × as fast, the gradient's norm differs by 0.1 %.
    """
    base.unet.set_attn_processor(AttnProcessor())

    def predict(noisy: Tensor, timesteps: Tensor, text_rows: Tensor) -> Tensor:
        scenes = [training_scene(*divmod(row, CAPTIONS_PER_PERSON)) for row in text_rows.tolist()]
        with torch.no_grad():
            condition = base.encode(tokenizer([caption(scene) for scene in scenes]))
        with torch.autocast(noisy.device.type, torch.bfloat16):
            return base.predict(noisy, timesteps, condition).float()

    def draw_timesteps(count: int, length: int, generator: torch.Generator) -> Tensor:
        timesteps = stratified_timesteps(count, length, generator)
        return timesteps if little_noise is None else little_noise.lower(timesteps, generator)

    return LoRADiffusionLoss(
        base.unet,
        lora_layout(),
        predict,
        noise_scheduler(),
        images_per_person,
        seed,
        draw_timesteps=draw_timesteps,
    )
