"""A predicted LoRA, trained further on a person's images, as the node Refine LoRA does it in ComfyUI."""

from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from difflora_core.config import RefinementSettings
from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.lora import LoRA
from difflora_core.refinement import DOWN, UP, LoRAFactors, diffusion_loss, refine
from training.base_model.batched_loras import stacked_loras
from training.base_model.checkpointed_unet import checkpointed
from training.base_model.interface import BaseModel, TextEmbeddings

LEAST_SIGNAL = 4.9e-8
"""Smallest ᾱ, as in ComfyUI: at zero terminal SNR the last noise level would be infinite."""


class NoisyBase:
    """A base model with one caption, seen as the functions that `difflora_core.refinement` trains with."""

    def __init__(self, base: BaseModel, texts: TextEmbeddings, size: int) -> None:
        """Store what a step needs.

        Args:
            base: Frozen.
            texts: Of one caption.
            size: Pixels of a side of the images.
        """
        self.base, self.texts, self.size = base, texts, size
        schedule = base.scheduler()
        self.prediction_type = schedule.config.prediction_type
        alphas = schedule.alphas_cumprod.clamp_min(LEAST_SIGNAL).to(base.device)
        self.sigmas = ((1 - alphas) / alphas).sqrt()
        """Noise levels by timestep, ascending (timesteps,)."""

    def noise_levels(self, positions: Tensor) -> Tensor:
        """Return σ (batch,) at positions in [0, 1) of the timestep range."""
        return self.sigmas[(positions * len(self.sigmas)).long()]

    def denoise(self, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """Predict x0 (batch, channels, h, w) from x0 + σ · ε; each σ is a timestep's."""
        timesteps = torch.searchsorted(self.sigmas, sigmas.contiguous())
        level = sigmas.view(-1, 1, 1, 1)
        scaled = noisy / (1 + level.square()).sqrt()
        texts = {name: tensor.expand(len(noisy), *tensor.shape[1:]) for name, tensor in self.texts.items()}
        output = self.base.predict(scaled, timesteps, texts, self.size)
        if self.prediction_type == "v_prediction":
            return (scaled - level * output) / (1 + level.square()).sqrt()
        if self.prediction_type == "epsilon":
            return noisy - level * output
        return output


def refine_lora(
    base: BaseModel,
    lora: LoRA,
    latents: Tensor,
    caption: str,
    size: int,
    settings: RefinementSettings,
    seed: int,
) -> LoRA:
    """Train a LoRA further, with a progress bar; modules and rank stay the same.

    Args:
        base: Frozen.
        lora: Where training starts.
        latents: Of the person's images (images, channels, h, w).
        caption: Of all images.
        size: Pixels of a side of the images.
        settings: Steps, learning rate, batch size.
        seed: Of images, timesteps and noise.

    Raises:
        ValueError: The loss or all gradients were not finite.
    """
    layout, generator = lora.layout, torch.Generator().manual_seed(seed)
    factors = LoRAFactors(dict(lora), base.device)
    noisy_base = NoisyBase(base, base.encode_text([caption]), size)
    draw = partial(
        diffusion_loss,
        noisy_base.denoise,
        noisy_base.noise_levels,
        latents.to(base.device),
        settings.batch_size,
        generator,
        prediction_type=noisy_base.prediction_type,
    )

    def loss() -> Tensor:
        keys = {name: layout.base.kohya_name(name) for name in layout.names}
        own = {name: (factors.parameters[key + DOWN], factors.parameters[key + UP]) for name, key in keys.items()}
        with stacked_loras(base.unet, layout, layout.flatten(own)[None]):
            return draw()

    with checkpointed(base.unet, base.device.type != "cpu"):  # memory is short on a GPU
        for _ in tqdm(refine(factors, loss, settings), total=settings.steps, desc="refine", leave=False, disable=None):
            pass
    made_by = {**lora.made_by, "refined": {**asdict(settings), "seed": seed, "caption": caption}}
    refined = {name: tensor.cpu() for name, tensor in factors.tensors().items()}
    return LoRA(read_lora(refined, layout), layout, made_by)
