"""A small DINO: self-distillation without labels (Caron et al., arXiv 2104.14294), for the metric DINO and for FID.

A student sees two large and several small crops of an image, its teacher, which is the average of former students, the
large ones alone; the student learns to say of each crop what the teacher says of another. The teacher's answers are
balanced by Sinkhorn-Knopp, as in DINOv2 (arXiv 2304.07193): with DINO's centering this small network soon told the six
backgrounds apart and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from training.engine.batches_ahead import Metrics
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.evaluation.metrics.pixels import IMAGENET_MEAN, IMAGENET_STD
from training.lora_dataset.images.folder_writing import replacing_folder

from .drawn_images import DrawnImages, softened_pixels
from .vision_start import sample_pixels, start_vision

NAME = "dino"
BATCH = 48
SIDE, PATCH = 112, 14
"""Of the network's images: the metric resizes to 8/7 of it, a drawing's 128 pixels, and crops."""
WIDTH, PROTOTYPES = 128, 256
LARGE, SMALL = 2, 4
"""Crops of an image."""
SMALL_SIDE = 56
LARGE_AREA, SMALL_AREA = (0.5, 1.0), (0.15, 0.4)
"""Share of the image in a crop."""
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05
MOMENTUM = 0.99
"""Of the teacher, per step."""
BALANCING = 3
"""Iterations of Sinkhorn-Knopp."""
TRAINING = TrainConfig(steps=1000, learning_rate=1e-3, warmup=100, weight_decay=0.04, ema=0.0, save_every=100, seed=42)
"""Without an average: the teacher is one already."""


def vision_config() -> ViTConfig:
    """Sizes of the network."""
    return ViTConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )


class Branch(nn.Module):
    """Student or teacher: normalized crops (n, 3, side, side) → logits (n, prototypes)."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = ViTModel(vision_config(), add_pooling_layer=False)
        self.head = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 64))

    def forward(self, crops: Tensor) -> Tensor:
        """Classify crops."""
        states = self.vision(pixel_values=crops, interpolate_pos_encoding=True).last_hidden_state
        return F.normalize(self.head(states[:, 0]), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class SelfDistillation(nn.Module):
    """Student and teacher."""

    def __init__(self, images: Tensor) -> None:
        """Start with patches whitened by images (n, 3, side, side)."""
        super().__init__()
        self.student, self.teacher = Branch(), Branch()
        first = self.student.vision.embeddings
        start_vision(first.patch_embeddings.projection, first.position_embeddings[0, 1:], images)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    def forward(self, large: Sequence[Tensor], small: Sequence[Tensor]) -> tuple[Tensor, Metrics]:
        """Let the teacher follow the student, and return the loss of crops (n, 3, side, side)."""
        self._follow()
        with torch.no_grad():
            logits = torch.cat([self.teacher(crops) for crops in large])
            targets = balanced(logits / TEACHER_TEMPERATURE).chunk(len(large))
        said = [(self.student(crops) / STUDENT_TEMPERATURE).log_softmax(1) for crops in (*large, *small)]
        pairs = [(i, j) for i, j in product(range(len(large)), range(len(said))) if i != j]
        loss = torch.stack([-(targets[i] * said[j]).sum(1).mean() for i, j in pairs]).mean()
        sharp = torch.cat(targets).amax(1).mean()
        return loss, {"largest share": sharp}

    @torch.no_grad()
    def _follow(self) -> None:
        for own, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            own.lerp_(other, 1.0 - MOMENTUM)


def balanced(logits: Tensor) -> Tensor:
    """Assign crops to prototypes so that all prototypes have about the same share of them.

    Args:
        logits: (n, prototypes), divided by the temperature.

    Returns:
        (n, prototypes); rows have a sum of 1.
    """
    shares = (logits - logits.max()).exp()
    for _ in range(BALANCING):
        shares = shares / shares.sum(0, keepdim=True).clamp(min=1e-12)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    return shares


def random_crops(pixels: Tensor, side: int, area: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Cut a square out of each image at a random place.

    Args:
        pixels: (n, 3, height, width) in [0, 1].
        side: Of the result in pixels.
        area: Least and largest share of the image.
        generator: Source of sizes, places, and of changes of brightness and color.

    Returns:
        Normalized (n, 3, side, side).
    """
    least, largest = area
    size, x, y, *changes = torch.rand(7, len(pixels), generator=generator)
    contrast = 0.7 + 0.6 * torch.stack(changes[:3], 1)  # (n, 3)
    offset = 0.2 * changes[3] - 0.1
    scale = (least + (largest - least) * size).sqrt()
    zero = torch.zeros_like(scale)
    rows = [scale, zero, (2 * x - 1) * (1 - scale), zero, scale, (2 * y - 1) * (1 - scale)]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [len(pixels), 3, side, side], align_corners=False)
    cut = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    changed = cut * contrast[:, :, None, None] + offset.view(-1, 1, 1, 1)
    return _normalized(changed.clamp(0, 1))


def centered(pixels: Tensor) -> Tensor:
    """Cut the middle out of images (n, 3, height, width) in [0, 1], as the metric does: (n, 3, side, side)."""
    top, left = ((side - SIDE) // 2 for side in pixels.shape[-2:])
    return _normalized(pixels[..., top : top + SIDE, left : left + SIDE])


def _normalized(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def train_dino(images: DrawnImages, folder: Path, config: TrainConfig = TRAINING) -> ViTModel:
    """Train DINO (resumable, state in `folder`) and return the teacher's network.

    Args:
        images: To train on; captions and traits are not used.
        folder: Of the training's state.
        config: Of the training.
    """
    torch.manual_seed(config.seed)
    model = SelfDistillation(centered(sample_pixels(images)))

    def loss(module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        pixels = softened_pixels(images.draw(BATCH, generator).images, generator)
        large = [random_crops(pixels, SIDE, LARGE_AREA, generator) for _ in range(LARGE)]
        small = [random_crops(pixels, SMALL_SIDE, SMALL_AREA, generator) for _ in range(SMALL)]
        return module(large, small)

    train(model, loss, config, folder, NAME)
    return model.teacher.vision.eval()


def save_dino(model: ViTModel, folder: Path) -> None:
    """Write a network in transformers' layout."""
    with replacing_folder(folder) as partial:
        model.save_pretrained(partial)
