"""The diffusion loss: timesteps, targets and weights, for the base model's images and for LoRA latents alike."""

from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample"]
"""What a network predicts, in diffusers' words: the noise, the velocity or the clean x0."""


BELOW_ONE = 1.0 - 2.0**-24
"""The largest number below 1 in float32."""


def stratified_positions(count: int, generator: torch.Generator) -> Tensor:
    """Draw one position from each of `count` equal parts of [0, 1): float32 (count,), ascending.

    Timesteps that are spread over the whole range make the loss of a small batch less noisy than independent draws.
    """
    positions = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return positions.clamp_max(BELOW_ONE)  # the last one may have been rounded up to 1


def stratified_timesteps(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """Draw one timestep from each of `count` equal parts of 0 … timesteps: int64 (count,), ascending."""
    return (stratified_positions(count, generator) * timesteps).long()


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """Compute the signal-to-noise ratios ᾱ / (1 − ᾱ) of ᾱ (batch,)."""
    return alphas_cumprod / (1 - alphas_cumprod).clamp_min(1e-8)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Compute min-SNR weights of the squared error of what the network predicts (Hang et al. 2023, arXiv 2303.09556).

    At zero terminal SNR they are 1 for ε, 0 for v and x0.

    Args:
        snr: Signal-to-noise ratios s, (batch,).
        gamma: The cap γ > 0.
        prediction_type: What the network predicts.

    Returns:
        (batch,): min(s, γ) for x0, min(s, γ) / s for ε, min(s, γ) / (s + 1) for v.

    Raises:
        ValueError: The network predicts something else.
    """
    if prediction_type == "sample":
        return snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return (gamma / snr.clamp_min(1e-20)).clamp(max=1.0)
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    raise ValueError(_unknown(prediction_type))


def loss_target(prediction_type: PredictionType, clean: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Compute what the network should predict.

    Args:
        prediction_type: What the network predicts.
        clean: x0, (batch, …).
        noise: ε, of the same shape.
        alphas_cumprod: ᾱ (batch,) of the timesteps, on the same device.

    Returns:
        ε, x0, or v = √ᾱ · ε − √(1 − ᾱ) · x0 (Salimans and Ho 2022, arXiv 2202.00512).

    Raises:
        ValueError: The network predicts something else.
    """
    if prediction_type == "sample":
        return clean
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alphas = alphas_cumprod.to(clean.dtype).view(-1, *(1,) * (clean.ndim - 1))
        return alphas.sqrt() * noise - (1 - alphas).sqrt() * clean
    raise ValueError(_unknown(prediction_type))


def x0_error_weight(sigmas: Tensor, prediction_type: PredictionType) -> Tensor:
    """Compute what turns the squared error of a predicted x0 into that of what the network itself predicts.

    ε = (x − x0) / σ, so its error is that of x0 over σ²; v of unit variance is (x / √(1 + σ²) − √(1 + σ²) · x0) / σ up
    to terms without x0, so its error is that of x0 times (1 + σ²) / σ² (Salimans and Ho 2022, section 4).

    Args:
        sigmas: Noise levels (batch,) of x = x0 + σ · ε.
        prediction_type: What the network predicts.

    Returns:
        Factors (batch,).

    Raises:
        ValueError: The network predicts something else.
    """
    squares = sigmas.square()
    if prediction_type == "sample":
        return torch.ones_like(squares)
    if prediction_type == "epsilon":
        return torch.ones_like(squares) / squares
    if prediction_type == "v_prediction":
        return (1.0 + squares) / squares
    raise ValueError(_unknown(prediction_type))


def _unknown(prediction_type: str) -> str:
    return f"a network predicts epsilon, v_prediction or sample (x0), found {prediction_type!r}"
