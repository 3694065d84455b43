"""Stage `vae`: train the autoencoder on crops of drawn images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from miniature.world.drawing import IMAGE_SIZE
from miniature.world.image_blocks import TEACHER_PEOPLE, load_block, training_blocks
from training.engine.config import TrainConfig
from training.engine.loop import load_trained, train
from training.engine.processes import in_processes

from .vae import TinyVAE, VAEConfig, reconstruction_loss

TRAINING = TrainConfig(steps=18000, learning_rate=1.5e-3, warmup=100, ema=0.998, mixed_precision="bf16")
CROP, BATCH = 64, 8


def train_vae(build: Path, processes: int) -> None:
    """Train to build/vae.safetensors (resumable). With crops a second of training shows four times as many people."""
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
    weight = pixel_weight()

    def loss(vae: torch.nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        crops, weights = [], []
        for _ in range(BATCH):
            block, person, image = torch.randint(0, 2**30, (3,), generator=generator).tolist()
            stack = stacks[block % len(stacks)]
            # Two random numbers: most crops are around the face, few in the corners, which are only wall
            top, left = (4 * torch.randint(0, 9, (2, 2), generator=generator).sum(0)).tolist()
            crop = np.array(
                stack[person % stack.shape[0], image % stack.shape[1], top : top + CROP, left : left + CROP]
            )
            crops.append(torch.from_numpy(crop).permute(2, 0, 1))
            weights.append(weight[:, top : top + CROP, left : left + CROP])
        pixels = (torch.stack(crops).float() / 255.0).contiguous(memory_format=torch.channels_last)
        value, mse = vae(pixels, torch.stack(weights), generator)
        return value, {"psnr": float(-10 * torch.log10(mse))}

    torch.manual_seed(0)
    vae = TinyVAE(VAEConfig()).to(memory_format=torch.channels_last)
    train(_WithLoss(vae), loss, TRAINING, build, "vae")


class _WithLoss(torch.nn.Module):
    """The loss as the forward pass, so that gradients are averaged over processes."""

    def __init__(self, vae: TinyVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss and mean squared error, as `reconstruction_loss`."""
        return reconstruction_loss(self.vae, pixels, weight, generator)


def load_vae(build: Path) -> TinyVAE:
    """The trained autoencoder (EMA), for inference."""
    module = _WithLoss(TinyVAE(VAEConfig()))
    load_trained(module, build, "vae")
    return module.vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
