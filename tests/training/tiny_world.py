"""A base model of two layers, and people with images that it does not know, small enough for a test of many steps."""

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages

LAYOUT = LoRALayout((LoRAModule("first", 4, 6), LoRAModule("second", 6, 4)), rank=2)


def base_model() -> nn.Module:
    """Predicts noise from the four channels of each position of a latent."""
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("first", nn.Linear(4, 6))
    network.add_module("activation", nn.Tanh())
    network.add_module("second", nn.Linear(6, 4))
    return network.requires_grad_(False)


def person_images(name: str, color: Tensor) -> PersonImages:
    """Three images (3, 4, 2, 2) of about one color (4,)."""
    generator = torch.Generator().manual_seed(len(name))
    latents = color[:, None, None] + 0.05 * torch.randn(3, 4, 2, 2, generator=generator)
    return PersonImages.complete(name, latents, torch.zeros(3, dtype=torch.long))


def predict_with(network: nn.Module):
    """The prediction of `network`; texts and timesteps mean nothing to it."""

    def predict(noisy: Tensor, timesteps: Tensor, text_rows: Tensor) -> Tensor:
        return network(noisy.flatten(2).mT).mT.reshape(noisy.shape)

    return predict


def diffusion_loss(network: nn.Module) -> LoRADiffusionLoss:
    """The loss through `network`."""
    scheduler = DDPMScheduler(prediction_type="epsilon")
    return LoRADiffusionLoss(network, LAYOUT, predict_with(network), scheduler, images_per_person=2)


PEOPLE = [
    person_images("ann", torch.tensor([2.0, 0.0, -1.0, 0.5])),
    person_images("ben", torch.tensor([-1.0, 1.0, 0.0, 2.0])),
    person_images("cleo", torch.tensor([0.0, -2.0, 1.0, 1.0])),
]


def train_loras(loss: LoRADiffusionLoss, steps: int) -> Tensor:
    """LoRAs of `PEOPLE` (people, numel) trained a little on the very images."""
    start = 0.3 * torch.randn(LAYOUT.numel, generator=torch.Generator().manual_seed(0))
    loras = start.expand(len(PEOPLE), -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([loras], lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        loss(loras, PEOPLE, step).sum().backward()
        optimizer.step()
    return loras.detach()
