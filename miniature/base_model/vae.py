"""The miniature's autoencoder: TAESD's architecture and keys, trained here with fewer active channels.

ComfyUI recognizes a small VAE by TAESD's keys: an eighth of the resolution, 64 channels everywhere. Drawings need few
of those channels, so a narrower network is trained and written into the 64: surplus channels get zero weights and stay
exactly zero through convolution, ReLU and skip; a block that is not trained gets zero weights and is then exactly a
ReLU. So the exported file computes the very same function (tested). The decoder may be wider than the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .config import LATENT_CHANNELS

TAESD_CHANNELS = 64
TAESD_ENCODER_BLOCKS = (1, 3, 3, 3)
TAESD_DECODER_BLOCKS = (3, 3, 3, 1)


@dataclass(frozen=True)
class VAEConfig:
    """The active part of the TAESD network, from full resolution down to an eighth; by default what ships."""

    encoder_widths: tuple[int, int, int, int] = (24, 32, 64, 64)
    """Active channels of the encoder per resolution."""
    encoder_blocks: tuple[int, int, int, int] = (0, 1, 1, 2)
    """Active residual blocks of the encoder per resolution, at most TAESD's own."""
    decoder_widths: tuple[int, int, int, int] = (32, 48, 64, 64)
    """Active channels of the decoder per resolution."""
    decoder_blocks: tuple[int, int, int, int] = (1, 3, 3, 3)
    """Active residual blocks of the decoder per resolution."""
    latent_channels: int = LATENT_CHANNELS
    """Of the latents that the diffusion model denoises."""


class Block(nn.Module):
    """TAESD's residual block; without convolutions it is a ReLU."""

    def __init__(self, channels: int, active: bool) -> None:
        super().__init__()
        self.conv = None
        if active:
            first, second, last = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
            self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) → the same shape."""
        return torch.relu(x if self.conv is None else self.conv(x) + x)


class Clamp(nn.Module):
    """TAESD's soft limit of the latents to ±3."""

    def forward(self, x: Tensor) -> Tensor:
        """Latents of any shape → the same shape."""
        return torch.tanh(x / 3) * 3


def _blocks(width: int, active: int, total: int) -> list[nn.Module]:
    return [Block(width, number < active) for number in range(total)]


class TinyVAE(nn.Module):
    """Autoencoder: pixels (batch, 3, 128, 128) in [0, 1] ↔ latents (batch, channels, 16, 16) of unit variance.

    The layers stand at TAESD's positions, so a parameter's name is TAESD's name.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.encoder_widths
        encoder: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
        for level, (width, total) in enumerate(zip(widths, TAESD_ENCODER_BLOCKS, strict=True)):
            if level:
                encoder.append(nn.Conv2d(widths[level - 1], width, 3, padding=1, stride=2, bias=False))
            encoder += _blocks(width, config.encoder_blocks[level], total)
        encoder.append(nn.Conv2d(widths[3], config.latent_channels, 3, padding=1))
        self.taesd_encoder = nn.Sequential(*encoder)

        widths = config.decoder_widths
        decoder: list[nn.Module] = [Clamp(), nn.Conv2d(config.latent_channels, widths[3], 3, padding=1), nn.ReLU()]
        for position, total in enumerate(TAESD_DECODER_BLOCKS):
            level = 3 - position
            decoder += _blocks(widths[level], config.decoder_blocks[level], total)
            if level:
                decoder.append(nn.Upsample(scale_factor=2))
                decoder.append(nn.Conv2d(widths[level], widths[level - 1], 3, padding=1, bias=False))
        decoder.append(nn.Conv2d(widths[0], 3, 3, padding=1))
        self.taesd_decoder = nn.Sequential(*decoder)

    def encode(self, pixels: Tensor) -> Tensor:
        """(batch, 3, h, w) in [0, 1] → (batch, channels, h/8, w/8)."""
        return self.taesd_encoder(pixels)

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> Tensor:
        """uint8 (batch, h, w, 3) → latents (batch, channels, h/8, w/8), contiguous, without gradient."""
        return self.encode(to_pixels(images).contiguous(memory_format=torch.channels_last)).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """(batch, channels, h/8, w/8) → (batch, 3, h, w), nominally in [0, 1]; not clamped."""
        return self.taesd_decoder(latents)


def to_pixels(images: np.ndarray) -> Tensor:
    """Images uint8 (n, h, w, 3) → float32 (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255.0


def to_images(pixels: Tensor) -> np.ndarray:
    """Pixels (n, 3, h, w), nominally in [0, 1] → uint8 (n, h, w, 3)."""
    return pixels.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def export_taesd(vae: TinyVAE) -> dict[str, Tensor]:
    """State dict of the full 64-channel TAESD network that computes the same as `vae` (keys taesd_encoder.N…)."""
    widths = (TAESD_CHANNELS,) * 4
    config = VAEConfig(widths, TAESD_ENCODER_BLOCKS, widths, TAESD_DECODER_BLOCKS[::-1], vae.config.latent_channels)
    state = {}
    small = vae.state_dict()
    for name, parameter in TinyVAE(config).state_dict().items():
        padded = torch.zeros_like(parameter)
        if name in small:
            padded[tuple(slice(0, size) for size in small[name].shape)] = small[name]
        state[name] = padded
    return state


def import_taesd(full: Mapping[str, Tensor], vae: TinyVAE) -> dict[str, Tensor]:
    """The inverse of `export_taesd`: the state of the narrower `vae`, without padding and inactive blocks."""
    return {
        name: full[name][tuple(slice(0, size) for size in parameter.shape)].clone()
        for name, parameter in vae.state_dict().items()
    }


def copy_into_wider(narrow: TinyVAE, wide: TinyVAE) -> None:
    """Give `wide` the function of `narrow`, whose channels and blocks it has and more; its other weights stay random.

    Surplus channels read all channels and are read by none of the narrow network's, and surplus blocks start as a ReLU
    (their last convolution is zero, see `Block`), so that training can use both at once.
    """
    small, state = narrow.state_dict(), wide.state_dict()
    for name, parameter in small.items():
        widened, inside = state[name], tuple(slice(0, size) for size in parameter.shape)
        if widened.ndim == 4:
            widened[: len(parameter), parameter.shape[1] :] = 0
        widened[inside] = parameter
    wide.load_state_dict(state)
