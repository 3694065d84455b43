"""The end-to-end loss of the LoRA autoencoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from difflora_core.autoencoder.losses import reconstruction
from difflora_core.autoencoder.model import LAE
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages
from training.store.loras import LoRAs

from .config import LAEFinetuning
from .denoiser_objective import check_people


class LAEEndToEndObjective:
    """The diffusion loss of reconstructed teachers on their people's images, and the weight-space loss beside it."""

    def __init__(
        self,
        lae: LAE,
        loras: LoRAs,
        images: Sequence[PersonImages],
        diffusion_loss: LoRADiffusionLoss,
        config: LAEFinetuning,
    ) -> None:
        """Store what a step needs.

        Args:
            lae: What is trained.
            loras: Teachers.
            images: Of the same people, in the same order.
            diffusion_loss: Through the frozen base model.
            config: People per step, weight of the weight-space loss.

        Raises:
            ValueError: There are fewer teachers than a micro-batch has people.
        """
        check_people(config.people, len(loras))
        self.lae, self.loras, self.images = lae, loras, images
        self.diffusion_loss, self.config = diffusion_loss, config

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch, and its terms. See `training.engine.batches_ahead.LossFunction`."""
        people = torch.randperm(len(self.loras), generator=generator)[: self.config.people].tolist()
        target = self.lae.normalize(self.loras.read(people).to(self.lae.mean.device))
        predicted, _, _ = model(target)
        images = [self.images[row] for row in people]
        diffusion_loss = self.diffusion_loss(self.lae.restore(predicted), images, step).mean()
        reconstruction_loss = reconstruction(predicted, target)
        loss = diffusion_loss + self.config.reconstruction_weight * reconstruction_loss
        metrics = {"diffusion_loss": diffusion_loss.detach(), "reconstruction_loss": reconstruction_loss.detach()}
        return loss, metrics
