"""Losses of the LoRA weight autoencoder; those of ΔW are in `lora.delta_weights`.

Reconstruction and weight-preserved loss take normalized LoRAs (batch, numel), the deviation from the mean LoRA in units
of its factor's scale; the KL term takes the posterior of standardized latents. All return a scalar.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def reconstruction(prediction: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error: the paper's reconstruction term."""
    return F.mse_loss(prediction, target)


def weight_preserved(prediction: Tensor, target: Tensor) -> Tensor:
    """Compute the squared error in which large weights count more: `mean((1 + |x| / mean|x|) · (x̂ − x)²)`.

    The paper introduces the term because large LoRA weights change the image most; its exact formula is not public,
    this one is our choice. `mean|x|` runs over one LoRA, so the factors average exactly 2 whatever the LoRA's size.
    Limits: equal magnitudes give twice the mean squared error; an all-zero target gives the mean squared error; a
    single large weight among n zeros counts n + 1 times. Gradient: `2 (1 + |x| / mean|x|) (x̂ − x) / n`, none through
    the factors.
    """
    magnitude = target.detach().abs()
    importance = 1 + magnitude / magnitude.mean(-1, keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    return (importance * (prediction - target).square()).mean()


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the Kullback–Leibler divergence of a diagonal Gaussian from the unit Gaussian, in nats per dimension.

    `mean(½ (μ² + σ² − 1 − log σ²))` (Kingma and Welling, arXiv 1312.6114, appendix B). Limits: 0 for μ = 0, σ² = 1
    only; grows as ½ μ² for a far mean and without bound, but slowly, as σ² → 0. Gradients: `μ / n`, `½ (σ² − 1) / n`.

    Args:
        mean: μ, (batch, …).
        log_variance: log σ², of the same shape.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
