"""Stage `vae`: train the autoencoder on crops of drawn images, then a wider decoder on whole ones.

The second run leaves the encoder as it is, so the latents stay the same, and all networks that were trained on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from miniature.world.drawing import IMAGE_SIZE
from miniature.world.image_blocks import TEACHER_PEOPLE, load_block, random_images, training_blocks
from training.engine.config import TrainConfig
from training.engine.loop import load_trained, train
from training.engine.processes import in_processes

from .vae import TinyVAE, VAEConfig, copy_into_wider, to_pixels

FIRST_VAE = VAEConfig(decoder_widths=(24, 32, 64, 64), decoder_blocks=(1, 2, 2, 3))
"""Of the first run."""
TRAINING = TrainConfig(steps=18000, learning_rate=1.5e-3, warmup=100, ema=0.998, mixed_precision="bf16")
CROP, BATCH = 64, 8
"""Of the first run: side in pixels, and crops. A second of training shows four times as many people as with images."""
DECODER_TRAINING = TrainConfig(steps=2500, learning_rate=1e-3, warmup=100, ema=0.998, mixed_precision="bf16", seed=4)
DECODER_BATCH = 4
"""Images of a micro-batch."""
LATENT_NOISE = 0.05
"""Standard deviation of what is added to latents before they are decoded: the diffusion model's are not exact."""
DETAIL = 8.0
"""Added weight of a pixel that differs by 1 from its surroundings."""
TEXTURE_WINDOW = 5
"""Side in pixels of the windows over which sharpness is averaged."""


def train_vae(build: Path, processes: int) -> None:
    """Train to build/vae.safetensors, then to build/vae_decoder.safetensors (both resumable)."""
    in_processes(_train_in_process, processes, build)


def pixel_weight() -> Tensor:
    """Weights (1, 128, 128) of the pixels: higher where eyes and mouth usually are, so that they become sharp first."""
    y, x = torch.meshgrid(torch.arange(IMAGE_SIZE), torch.arange(IMAGE_SIZE), indexing="ij")
    face = torch.exp(-(((x - 64) / 30.0) ** 2 + ((y - 76) / 26.0) ** 2))
    return (0.6 + 1.4 * face)[None]


def _train_in_process(_rank: int, _processes: int, build: Path) -> None:
    blocks = [
        b for b in training_blocks() if b.people[0] < TEACHER_PEOPLE and (build / "images" / f"{b.name}.npy").exists()
    ]
    stacks = [load_block(build / "images", block) for block in blocks]
    torch.manual_seed(0)
    vae = TinyVAE(FIRST_VAE).to(memory_format=torch.channels_last)
    _train_autoencoder(vae, stacks, build)
    train_decoder(vae, stacks, build, DECODER_TRAINING)


def _train_autoencoder(vae: TinyVAE, stacks: Sequence[np.ndarray], build: Path) -> None:
    weight = pixel_weight()

    def loss(vae: torch.nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        crops, weights = [], []
        for _ in range(BATCH):
            image = _image(stacks, generator)
            # Two random numbers: most crops are around the face, few in the corners, which are only wall
            top, left = (4 * torch.randint(0, 9, (2, 2), generator=generator).sum(0)).tolist()
            crop = np.array(image[top : top + CROP, left : left + CROP])
            crops.append(torch.from_numpy(crop).permute(2, 0, 1))
            weights.append(weight[:, top : top + CROP, left : left + CROP])
        pixels = (torch.stack(crops).float() / 255.0).contiguous(memory_format=torch.channels_last)
        value, mse = vae(pixels, torch.stack(weights), generator)
        return value, {"psnr": float(-10 * torch.log10(mse))}

    train(_AutoencoderLoss(vae), loss, TRAINING, build, "vae")


def train_decoder(narrow: TinyVAE, stacks: Sequence[np.ndarray], build: Path, config: TrainConfig) -> TinyVAE:
    """Train a wider decoder for latents of a trained autoencoder.

    Args:
        narrow: Trained; its encoder is copied and not trained.
        stacks: Images uint8 (people, images, 128, 128, 3).
        build: The scratch folder: vae_decoder.safetensors there (resumable).
        config: Of the run.

    Returns:
        The same encoder with the trained decoder (EMA).
    """
    weight = pixel_weight()

    def loss(decoder: torch.nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images = np.stack([_image(stacks, generator) for _ in range(DECODER_BATCH)])
        latents = narrow.encode_images(images)
        latents = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        value, mse = decoder(latents.contiguous(memory_format=torch.channels_last), to_pixels(images), weight[None])
        return value, {"psnr": float(-10 * torch.log10(mse))}

    torch.manual_seed(3)
    vae = TinyVAE(VAEConfig())
    copy_into_wider(narrow, vae)
    vae.taesd_encoder.requires_grad_(False)
    train(_DecoderLoss(vae).to(memory_format=torch.channels_last), loss, config, build, "vae_decoder")
    return vae


def _image(stacks: Sequence[np.ndarray], generator: torch.Generator) -> np.ndarray:
    """Choose a random image uint8 (128, 128, 3)."""
    ((block, person, image, _),) = random_images([stack.shape[:2] for stack in stacks], 1, generator)
    return stacks[block][person, image]


class _AutoencoderLoss(torch.nn.Module):
    """The loss as the forward pass, so that gradients are averaged over processes."""

    def __init__(self, vae: TinyVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, weights: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss of crops (batch, 3, h, w), weights (batch, 1, h, w), and the mean squared error without gradient."""
        latents = self.vae.encode(pixels)
        decoded = self.vae.decode(latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator))
        loss = reconstruction_loss(decoded, pixels, detail_weights(pixels, weights)) + 0.01 * unit_loss(latents)
        return loss, (decoded - pixels).square().mean().detach()


class _DecoderLoss(torch.nn.Module):
    """The decoder's loss as the forward pass; the latents were encoded before."""

    def __init__(self, vae: TinyVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor, pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of latents of images (batch, 3, 128, 128), and the mean squared error without gradient."""
        decoded, weights = self.vae.decode(latents).float(), detail_weights(pixels, weights)
        loss = reconstruction_loss(decoded, pixels, weights) + texture_loss(decoded, pixels, weights)
        return loss, (decoded - pixels).square().mean().detach()


def load_vae(build: Path) -> TinyVAE:
    """The trained autoencoder (EMA), for inference."""
    vae = TinyVAE(VAEConfig())
    load_trained(_DecoderLoss(vae), build, "vae_decoder")
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def detail_weights(pixels: Tensor, weights: Tensor) -> Tensor:
    """Raise weights where the image has detail: freckles and edges are few among the pixels."""
    smooth = functional.avg_pool2d(pixels, 5, stride=1, padding=2, count_include_pad=False)
    return weights * (1 + DETAIL * (pixels - smooth).abs().mean(1, keepdim=True))


def reconstruction_loss(decoded: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """L1 + 4 · L2 + difference of gradients + 0.5 · difference of opponent colors."""
    difference = decoded - pixels
    horizontal = (difference[..., 1:] - difference[..., :-1]).abs() * weights[..., 1:]
    vertical = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weights[..., 1:, :]
    error = (weights * difference.abs()).mean() + 4.0 * (weights * difference.square()).mean()
    # Irises, lips and freckles are a few pixels of color: without a term of their own they become gray
    red_green, blue_yellow = difference[:, 0] - difference[:, 1], difference[:, 2] - difference[:, :2].mean(1)
    colors = (weights[:, 0] * (red_green.abs() + blue_yellow.abs())).mean()
    return error + 0.5 * colors + horizontal.mean() + vertical.mean()


def texture_loss(decoded: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """Difference of local sharpness: of the Laplacian's mean absolute value over windows of 5 × 5 pixels.

    Where a latent does not say exactly what was drawn, every error of single pixels is least for a blur. This one is
    least for a texture as sharp as the drawing's, wherever its lines are.
    """
    inner = functional.avg_pool2d(weights[..., 1:-1, 1:-1], TEXTURE_WINDOW, stride=2)
    return (inner * (_local_sharpness(decoded) - _local_sharpness(pixels)).abs()).mean()


def _local_sharpness(pixels: Tensor) -> Tensor:
    neighbors = pixels[..., 2:, 1:-1] + pixels[..., :-2, 1:-1] + pixels[..., 1:-1, 2:] + pixels[..., 1:-1, :-2]
    laplacian = (4 * pixels[..., 1:-1, 1:-1] - neighbors).abs().mean(1, keepdim=True)
    return functional.avg_pool2d(laplacian, TEXTURE_WINDOW, stride=2)


def unit_loss(latents: Tensor) -> Tensor:
    """Distance of each channel of latents (batch, channels, h, w) from zero mean and unit deviation."""
    deviation, mean = torch.std_mean(latents, dim=(0, 2, 3))
    return (deviation.clamp_min(1e-3).log().square() + mean.square()).mean()
