"""Sampling from the base model without ComfyUI, where settings are chosen; the demo's figures come from ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from miniature.world.scenes import Scene, caption
from training.base_model.batched_loras import stacked_loras

from .config import LATENT_SHAPE, lora_layout
from .model import TextCondition, TinySDXL, Tokenizer, noise_scheduler
from .vae import TinyVAE, to_images

PEOPLE_PER_BATCH = 5
STEPS = 16
GUIDANCE = 2.5
"""Scale; chosen on 16 validation people × 8 scenes, two seeds, DiffLoRA's LoRAs on the positive side: at 2, 2.5 and 3
likeness is 0.923, 0.925, 0.925, eye color right in 0.680, 0.707, 0.696, and both eyes agree in 0.871, 0.840, 0.824."""
Side = Literal["both", "positive"]


@torch.no_grad()
def generate_images(
    base: TinySDXL,
    vae: TinyVAE,
    tokenizer: Tokenizer,
    loras: Tensor,
    scenes: Sequence[Scene],
    seed: int = 0,
    side: Side = "both",
    guidance: float = GUIDANCE,
) -> np.ndarray:
    """Generate images of people with their LoRAs.

    Args:
        base: The base model.
        vae: Its autoencoder.
        tokenizer: Its tokenizer.
        loras: One for each person: (people, numel).
        scenes: What each person's images are to show.
        seed: Of the initial noise, which starts anew for every batch of `PEOPLE_PER_BATCH` people.
        side: Whether the LoRA acts on both sides of guidance or on the prompt's alone (hybrid guidance).
        guidance: Guidance scale.

    Returns:
        uint8 (people, scenes, 128, 128, 3).
    """
    people = []
    for chunk in loras.split(PEOPLE_PER_BATCH):
        condition = base.encode(tokenizer([caption(scene) for scene in scenes] * len(chunk)))
        empty = base.encode(tokenizer([""])).repeat(len(condition.pooled))
        # Published figures depend on these draws: a generator with the plain seed, not `difflora_core.seeds`
        generator = torch.Generator().manual_seed(seed)
        # Guidance doubles the batch: each person's rows with the text, then each person's rows without it
        without_text = chunk if side == "both" else torch.zeros_like(chunk)
        with stacked_loras(base.unet, lora_layout(), torch.cat([chunk, without_text])):
            latents = sample_latents(base, condition, empty, generator, guidance)
        images = to_images(vae.decode(latents))
        people.append(images.reshape(len(chunk), len(scenes), *images.shape[1:]))
    return np.concatenate(people)


@torch.no_grad()
def sample_latents(
    base: TinySDXL, condition: TextCondition, empty: TextCondition, generator: torch.Generator, guidance: float
) -> Tensor:
    """Sample latents (batch, 16, 16, 16) by stochastic DPM-Solver++ (2M) with classifier-free guidance.

    Noise that is drawn anew in every step lets later steps correct earlier ones: on 5 validation people × 8 scenes both
    eyes of a face agreed in 0.55 to 0.65 of the images by deterministic solvers, in 0.73 to 0.80 by stochastic ones.

    Args:
        base: The base model.
        condition: Text conditions of the batch.
        empty: Conditions of the empty prompt, as many.
        generator: Draws the initial noise, and that of each step.
        guidance: Guidance scale; 1 is none.
    """
    scheduler = DPMSolverMultistepScheduler.from_config(noise_scheduler().config, algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(len(condition.pooled), *LATENT_SHAPE, generator=generator)
    both = TextCondition(torch.cat([condition.context, empty.context]), torch.cat([condition.pooled, empty.pooled]))
    for timestep in scheduler.timesteps:
        times = timestep.expand(2 * len(latents))
        with_text, without = base.predict(torch.cat([latents, latents]), times, both).chunk(2)
        v = without + guidance * (with_text - without)
        latents = scheduler.step(v, timestep, latents, generator).prev_sample
    return latents
