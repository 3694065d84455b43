"""What joint training starts from: people's latents that differ as their embeddings do, and an open decoder.

With teachers, a DiT starts at the average person's latent, and learns the way to others from their latents. Without
any, nobody's latent is known. Were all the same, the decoder could learn nothing of people, and the DiT nothing without
a decoder: training would stand still at first (miniature, teacher recovery after 100 steps: 0.01, from the start made
here 0.15). So latents begin as random features of the condition, of unit deviation over people.
"""

import torch
from torch import Tensor

from difflora_core.autoencoder.lae_file import load_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import TIMESTEPS
from difflora_core.denoiser.dit import DiT
from difflora_core.denoiser.model import Denoiser
from training.dreambooth.train import shared_start
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import configured_layout
from training.people.network_settings import denoiser_shapes

from .joint_objective import JointNetwork
from .settings import JointSettings

FITTED_DEVIATION = 0.3
"""Of the first latents where the LAE comes from teachers: its unit latents decode to whole LoRAs, of nobody."""
PEOPLE_PER_BATCH = 64
"""People whose first latents are predicted at a time."""


def new_lae(settings: JointSettings, dataset: DatasetConfig) -> LAE:
    """Make the autoencoder to start from: untrained, or that of `network`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its layout is another one than the dataset's.
    """
    layout = configured_layout(dataset)
    if settings.layout and (difference := settings.layout.layout().difference(layout)) is not None:
        raise ValueError(f"{settings.embeddings.dataset} is for other LoRAs than `layout` names: {difference}")
    if settings.network is None:
        lae = LAE(layout, settings.lae)
        generator = torch.Generator().manual_seed(settings.training.loop.seed)
        lae.start_without_loras(shared_start(layout), settings.training.start_deviation, generator)
        return lae
    lae = load_lae(settings.network)
    if (difference := layout.difference(lae.layout)) is not None:
        raise ValueError(f"{settings.network} is not of the LoRAs that the dataset's settings name: {difference}")
    return lae.requires_grad_(True)


def new_network(settings: JointSettings, lae: LAE, widths: tuple[int, int]) -> JointNetwork:
    """Make untrained MIF and DiT for the autoencoder's latents and embeddings of some widths."""
    torch.manual_seed(settings.training.loop.seed)
    return JointNetwork(Denoiser(*denoiser_shapes(settings.dit, settings.mif, lae, widths)), lae)


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
    modulation = dit.modulation_input(timesteps, condition)
    dit.modulation_out.bias.copy_(-dit.modulation_out.weight @ modulation.mean(0))
    found = float(_first_latents(dit, noise, timesteps, condition).var(0).mean().sqrt())
    for parameter in (dit.modulation_out.weight, dit.modulation_out.bias):
        parameter.mul_(deviation / found)
    dit.out.bias.copy_(-_first_latents(dit, noise, timesteps, condition).mean((0, 1)))


def _first_latents(dit: DiT, noise: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
    """Predict latents without the blocks, which are the identity in an untrained DiT.

    Thousands of people through blocks of the paper's size would be 10¹⁵ operations on the host, and tens of GB.
    """
    blocks, dit.blocks = dit.blocks, torch.nn.ModuleList()
    try:
        batches = zip(*(rows.split(PEOPLE_PER_BATCH) for rows in (noise, timesteps, condition)), strict=True)
        return torch.cat([dit(*batch) for batch in batches])
    finally:
        dit.blocks = blocks
