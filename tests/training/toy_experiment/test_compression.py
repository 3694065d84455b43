"""Compression by principal components is exact where the weights lie on a plane."""

import torch

from training.toy_experiment.compression import compress
from training.toy_experiment.tasks import Weights


def test_weights_on_a_plane_need_two_latent_values():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(20, 2, generator=generator) @ torch.randn(2, 100, generator=generator)
    weights = Weights(flat, (60, 40), [], lambda values: [values])
    decoded = compress("PCA", weights, fitted=15, latent_size=2, steps=0, seed=0)
    torch.testing.assert_close(decoded, flat, rtol=0, atol=1e-4)
