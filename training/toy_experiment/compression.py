"""Weights through a small latent, by principal components or by the LAE's convolutions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.autoencoder.baselines import LinearAutoencoder
from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.conv import ConvAutoencoder
from difflora_core.seeds import derive_seed, generator_for

from .tasks import BATCH, Weights, descend

LEARNING_RATE = 3e-4


def compress(compressor: str, weights: Weights, fitted: int, latent_size: int, steps: int, seed: int) -> Tensor:
    """Encode and decode all tasks' weights.

    Args:
        compressor: "PCA" or "conv".
        weights: Of all tasks.
        fitted: How many of the tasks, the first ones, the compressor is fitted on.
        latent_size: Values of a latent.
        steps: Of training "conv".
        seed: Of its initialization and batches.

    Returns:
        Reconstructed weights (tasks, numel).
    """
    flat = weights.flat
    mean = flat[:fitted].mean(0)
    scale = torch.stack([part.var(0).mean().sqrt() for part in flat[:fitted].split(weights.groups, dim=1)])
    scale = scale.clamp_min(1e-8).repeat_interleave(torch.tensor(weights.groups))
    normalized = (flat - mean) / scale
    config = LAEConfig(
        kind="linear" if compressor == "PCA" else "conv", tokens=1, width=latent_size, chunk=64, channels=16, hidden=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "toy experiment", "autoencoder"))
        autoencoder = (LinearAutoencoder if compressor == "PCA" else ConvAutoencoder)(flat.shape[1], config)
    autoencoder.initialize_from(lambda start, stop: normalized[:fitted, start:stop], fitted)
    if compressor == "conv":
        generator = generator_for(seed, "toy experiment", "autoencoder batches")

        def loss() -> Tensor:
            batch = normalized[torch.randint(fitted, (BATCH,), generator=generator)]
            return F.mse_loss(autoencoder.decode(autoencoder.encode(batch)), batch)

        descend(list(autoencoder.parameters()), loss, steps, LEARNING_RATE)
    with torch.no_grad():
        return autoencoder.decode(autoencoder.encode(normalized)) * scale + mean
