"""The diffusion loss of given LoRAs on people's own images.

A LoRA whose weights are near its teacher's need not make the same image, and a teacher is only one of many LoRAs that
make it. A network that predicts LoRAs can therefore also be trained end to end through the frozen base model: LoRA →
U-Net → diffusion loss on images of that person. It needs no teacher, only images. HyperDreamBooth (arXiv 2307.06949)
and HyperLoRA (arXiv 2503.16944) train in this way; for DiffLoRA it is our addition.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from difflora_core.diffusion_loss import stratified_timesteps
from difflora_core.lora.layout import LoRALayout

from .batched_loras import stacked_loras
from .checkpointed_unet import checkpointed
from .diffusion_loss import DiffusionLoss, DrawTimesteps, Predict
from .person_images import PersonImages


class LoRADiffusionLoss:
    """Mean diffusion loss of people's images, each person's with a LoRA of their own, in one batch.

    The LoRAs keep their gradient; the base model is frozen and unchanged afterwards. Each person has noise of their
    own, since no LoRA is compared with another's here: noise, timesteps and images depend on the seed, the step and
    the person's name.
    """

    def __init__(
        self,
        unet: nn.Module,
        layout: LoRALayout,
        predict: Predict,
        scheduler: Any,
        images_per_person: int = 4,
        seed: int = 0,
        gradient_checkpointing: bool = False,
        draw_timesteps: DrawTimesteps = stratified_timesteps,
    ) -> None:
        """Store what a step needs.

        Args:
            unet: The frozen network.
            layout: Of the LoRAs.
            predict: Through `unet`, see `diffusion_loss.Predict`.
            scheduler: The base model's noise schedule, diffusers' DDPMScheduler.
            images_per_person: Images of each person in a batch.
            seed: Of images, timesteps and noise.
            gradient_checkpointing: The U-Net's activations are computed again in the backward pass.
            draw_timesteps: Of the images of one person in a step.
        """
        self.unet, self.layout, self.predict, self.scheduler = unet, layout, predict, scheduler
        self.images_per_person, self.seed = images_per_person, seed
        self.gradient_checkpointing, self.draw_timesteps = gradient_checkpointing, draw_timesteps

    @property
    def device(self) -> torch.device:
        """The base model's device."""
        return next(self.unet.parameters()).device

    def __call__(self, loras: Tensor, people: Sequence[PersonImages], step: int) -> Tensor:
        """Return each person's loss (people,) with their LoRA of `loras` (people, numel).

        Raises:
            ValueError: The numbers of LoRAs and people differ, or the LoRAs have another layout.
        """
        self.layout.check(loras)
        if len(loras) != len(people):
            raise ValueError(f"Each LoRA needs one person's images, found {len(loras)} LoRAs and {len(people)} people.")
        here = [replace(person, latents=person.latents.to(self.device)) for person in people]
        loss = DiffusionLoss(
            self.predict,
            self.scheduler,
            here,
            self.images_per_person,
            self.seed,
            shared_noise=False,
            draw_timesteps=self.draw_timesteps,
        )
        if self.gradient_checkpointing and loras.requires_grad and torch.is_grad_enabled():
            return self._with_gradient(loras, loss, step)
        with stacked_loras(self.unet, self.layout, loras):
            return loss(step)

    def _with_gradient(self, loras: Tensor, loss: DiffusionLoss, step: int) -> Tensor:
        """Compute losses and gradient at once: later the U-Net, which has to run again, has no LoRAs any more."""
        leaf = loras.detach().requires_grad_()
        with checkpointed(self.unet, True), stacked_loras(self.unet, self.layout, leaf):
            losses = loss(step)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        known: Tensor = _KnownGradient.apply(loras, losses.detach(), gradient)
        return known


class _KnownGradient(torch.autograd.Function):
    """Losses (people,) of rows (people, numel), each of its own row alone, whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, _rows: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[:, None] * gradient, None, None
