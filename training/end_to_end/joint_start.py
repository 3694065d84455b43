"""What joint training starts from: people's latents that differ as their embeddings do, and an open decoder.

With teachers, a DiT starts at the average person's latent, and learns the way to others from their latents. Without
any, nobody's latent is known. Were all the same, the decoder could learn nothing of people, and the DiT nothing without
a decoder: training would stand still at first (miniature, teacher recovery after 100 steps: 0.01, from the start made
here 0.15). So latents begin as random features of the condition, of unit deviation over people.
"""

import torch
from torch import Tensor

from difflora_core.denoiser.config import TIMESTEPS
from difflora_core.denoiser.model import Denoiser

FITTED_DEVIATION = 0.3
"""Of the first latents where the LAE comes from teachers: its unit latents decode to whole LoRAs, of nobody."""


@torch.no_grad()
def start_from_conditions(
    denoiser: Denoiser, face: Tensor, image: Tensor, generator: torch.Generator, deviation: float = 1.0
) -> None:
    """Make an untrained denoiser predict random features of the condition, whatever the noise.

    Args:
        denoiser: Whose last layers are set, on the CPU.
        face: Embeddings of some people (people, face_width).
        image: Of the same people (people, image_width).
        generator: Of the features.
        deviation: Of the predicted latents over people.
    """
    dit = denoiser.dit
    condition, _ = denoiser.mif(face, image)
    timesteps = torch.full((len(condition),), TIMESTEPS - 1)
    shape = dit.config.tokens, dit.config.latent_width
    noise = torch.randn(len(condition), *shape, generator=generator)
    # Noise comes in through `embed`, which training opens
    torch.nn.init.zeros_(dit.embed.weight)
    torch.nn.init.zeros_(dit.embed.bias)
    for layer in (dit.out, dit.modulation_out):
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
    mixed = dit.mix(timesteps, condition)
    dit.modulation_out.bias.copy_(-dit.modulation_out.weight @ mixed.mean(0))
    found = float(dit(noise, timesteps, condition).var(0).mean().sqrt())
    for parameter in (dit.modulation_out.weight, dit.modulation_out.bias):
        parameter.mul_(deviation / found)
    dit.out.bias.copy_(-dit(noise, timesteps, condition).mean((0, 1)))
