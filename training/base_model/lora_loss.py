"""The loss that counts in the end: does the base model, with a predicted LoRA, denoise the person's own pictures?

A LoRA that is near its teacher in numbers need not make the same picture, and a teacher is only one of many LoRAs that
make it. So a network that predicts LoRAs can also be trained through the frozen base model: LoRA → U-Net → denoising
loss on pictures of that person. No teacher is needed for it, only pictures. HyperDreamBooth (arXiv 2307.06949) and
HyperLoRA (arXiv 2503.16944) train so; for DiffLoRA it is our addition.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout

from .batched_loras import stacked_loras
from .diffusion_loss import DenoisingLoss, Objective, PersonImages, Predict

OWN_DICE = Objective(shared=False)
"""What separates people here are their pictures, not a LoRA that is compared with another's: each has own noise."""


class LoRADiffusionLoss:
    """Mean denoising loss of people's pictures, each person's with a LoRA of their own, in one batch.

    The LoRAs keep their gradient; the base model is frozen and stays as it is. Noise, timesteps and pictures depend on
    the seed, the step and the person's name.
    """

    def __init__(
        self,
        unet: nn.Module,
        layout: LoRALayout,
        predict: Predict,
        scheduler: DDPMScheduler,
        rows: int = 4,
        seed: int = 0,
    ) -> None:
        """predict: through `unet`, see `denoising.Predict`. rows: pictures of each person in a batch."""
        self.unet, self.layout, self.predict, self.scheduler = unet, layout, predict, scheduler
        self.rows, self.seed = rows, seed

    @property
    def device(self) -> torch.device:
        """The base model's."""
        return next(self.unet.parameters()).device

    def __call__(self, loras: Tensor, albums: Sequence[PersonImages], step: int) -> Tensor:
        """Each person's loss (people,) with their LoRA of `loras` (people, numel).

        Raises:
            ValueError: there are more or fewer LoRAs than albums, or they have another layout.
        """
        self.layout.check(loras)
        if len(loras) != len(albums):
            raise ValueError(f"Every LoRA needs an album and every album a LoRA, found {len(loras)} and {len(albums)}.")
        here = [replace(album, latents=album.latents.to(self.device)) for album in albums]
        loss = DenoisingLoss(self.predict, self.scheduler, here, self.rows, self.seed, OWN_DICE)
        with stacked_loras(self.unet, self.layout, loras):
            return loss(step, torch.Generator())
