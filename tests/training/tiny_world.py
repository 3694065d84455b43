"""A base model of two layers and people whose pictures it knows nothing of, small enough for a test of many steps."""

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.base_model.diffusion_loss import PersonImages
from training.base_model.lora_loss import LoRADiffusionLoss

LAYOUT = LoRALayout((LoRAModule("first", 4, 6), LoRAModule("second", 6, 4)), rank=2)


def base_model() -> nn.Module:
    """Predicts noise from the four channels of each place of a latent."""
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("first", nn.Linear(4, 6))
    network.add_module("bend", nn.Tanh())
    network.add_module("second", nn.Linear(6, 4))
    return network.requires_grad_(False)


def album(name: str, color: Tensor, pictures: int = 3) -> PersonImages:
    """Pictures (pictures, 4, 2, 2) of about one color (4,)."""
    generator = torch.Generator().manual_seed(len(name))
    latents = color[:, None, None] + 0.05 * torch.randn(pictures, 4, 2, 2, generator=generator)
    return PersonImages.whole(name, latents, torch.zeros(pictures, dtype=torch.long))


def diffusion_loss(network: nn.Module) -> LoRADiffusionLoss:
    """The loss through `network`; texts and timesteps mean nothing to it."""

    def predict(noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        return network(noisy.flatten(2).mT).mT.reshape(noisy.shape)

    return LoRADiffusionLoss(network, LAYOUT, predict, DDPMScheduler(prediction_type="epsilon"), rows=2)
