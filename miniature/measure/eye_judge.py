"""The eye judge: color and size of one iris, from a crop around one eye; for measuring and for nothing else.

It sees one eye at a time, so that it cannot guess one from the other: whether both eyes of a face agree is measured,
not assumed. It is trained on drawn images of training people, with blur, noise and color shifts as the attribute judge,
and with crops as far off as a detector's landmarks are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miniature.base_model.vae import to_pixels
from miniature.encoders.batch_norm import recompute_batch_norms
from miniature.world.colors import EYES, eye_color
from miniature.world.drawing import landmarks_and_box
from miniature.world.eyes import iris_radius
from miniature.world.image_blocks import TEACHER_PEOPLE, load_block, random_images, training_blocks
from miniature.world.people import EYE_COLORS, person
from miniature.world.scenes import training_scene
from training.engine.config import TrainConfig
from training.engine.loop import train

from .judge import soften
from .judge_files import load_judge_weights, save_judge

CROP = 28
"""Side in pixels of the crop around an eye."""
JITTER = 3
"""Largest shift of a crop in training, in pixels."""
CONFIG = TrainConfig(steps=1500, learning_rate=2e-3, warmup=50, weight_decay=0.01, ema=0.995, seed=13)
BATCH = 96
FILE = "eye_judge.safetensors"
MAX_COLOR_DIFFERENCE = 40.0
"""Euclidean distance of RGB, 0 to 255, up to which two irises have one color."""
MAX_SIZE_RATIO = 1.2
"""Ratio of radii up to which two irises have one size."""


@dataclass(frozen=True)
class Eyes:
    """Irises of images."""

    colors: Tensor
    """float32 (images, 2, 3), RGB from 0 to 255."""
    radii: Tensor
    """float32 (images, 2), in pixels."""

    def agree(self) -> Tensor:
        """Whether both irises of an image have one color and one size: bool (images,)."""
        distance = (self.colors[:, 0] - self.colors[:, 1]).norm(dim=-1)
        ratio = self.radii.amax(1) / self.radii.amin(1)
        return (distance <= MAX_COLOR_DIFFERENCE) & (ratio <= MAX_SIZE_RATIO)

    def words(self) -> list[str]:
        """The word for the mean color of both irises, of the palette that people are drawn with."""
        return [color_word(color) for color in self.colors.mean(1)]


class EyeJudge(nn.Module):
    """Crops (batch, 3, 28, 28) in [0, 1] → RGB in [0, 1] and radius in 10 pixels: (batch, 4)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 64)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]  # (batch, 24, 28, 28)
        for before, after in pairwise(widths):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, after, 4, stride=2, padding=1)]
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(widths[-1] * 49, 96), nn.ReLU(), nn.Linear(96, 4))

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (batch, 3, 28, 28) → (batch, 4)."""
        return self.head(self.features(crops - 0.5))


def color_word(color: Tensor) -> str:
    """The word of the palette's place that is nearest to a color (3,), RGB from 0 to 255."""
    anchors = torch.tensor(EYES)
    steps = torch.linspace(0, 1, 41)[:, None]
    places = torch.cat([a + steps * (b - a) for a, b in pairwise(anchors)])  # (places, 3)
    position = int((places - color).norm(dim=-1).argmin()) / len(places)
    return EYE_COLORS[min(int(position * len(EYE_COLORS)), len(EYE_COLORS) - 1)]


def eye_crops(images: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Crops around one eye of each image.

    Args:
        images: uint8 (n, height, width, 3).
        centers: (n, 2), x and y in pixels.

    Returns:
        uint8 (n, 28, 28, 3); beyond an image's border its edge is repeated.
    """
    padded = np.pad(images, ((0, 0), (CROP, CROP), (CROP, CROP), (0, 0)), "edge")
    corners = np.round(centers - CROP / 2).astype(int) + CROP
    corners = np.clip(corners, 0, [padded.shape[2] - CROP, padded.shape[1] - CROP])
    return np.stack([image[y : y + CROP, x : x + CROP] for image, (x, y) in zip(padded, corners, strict=True)])


@torch.no_grad()
def measure_eyes(judge: EyeJudge, images: np.ndarray, landmarks: np.ndarray) -> Eyes:
    """Measure the irises of images uint8 (n, h, w, 3) with the landmarks (n, 5, 2) of their faces."""
    found = [judge(to_pixels(eye_crops(images, landmarks[:, side]))) for side in (0, 1)]
    both = torch.stack(found, 1)  # (n, 2, 4)
    return Eyes(255.0 * both[..., :3], (10.0 * both[..., 3]).clamp(min=0.5))


def train_eye_judge(build: Path, weights: Path) -> None:
    """Train to build/eye_judge.safetensors (resumable) and write weights/eye_judge.safetensors."""
    blocks = [block for block in training_blocks() if block.people[0] < TEACHER_PEOPLE]
    stacks, shapes = [load_block(build / "images", block) for block in blocks], [block.shape for block in blocks]

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, centers, expected = [], [], []
        for b, p, k, (side,) in random_images(shapes, BATCH, generator, more=1):
            index = blocks[b].people[p]
            drawn, scene = person(index), training_scene(index, k)
            rows.append(stacks[b][p, k])
            centers.append(landmarks_and_box(drawn, scene)[0][side % 2])
            expected.append([*(c / 255 for c in eye_color(drawn)), iris_radius(drawn, scene) / 10])
        shifts = torch.randint(-JITTER, JITTER + 1, (BATCH, 2), generator=generator).numpy()
        crops = to_pixels(eye_crops(np.stack(rows), np.stack(centers) + shifts))
        return soften(crops, generator), torch.tensor(expected)

    def loss(judge: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        crops, expected = batch(generator)
        found = judge(crops)
        error = (found - expected).abs().detach()
        return F.smooth_l1_loss(found, expected, beta=0.05), {"color": 255 * float(error[:, :3].mean())}

    torch.manual_seed(13)
    judge = EyeJudge()
    train(judge, loss, CONFIG, build, "eye_judge")
    generator = torch.Generator().manual_seed(14)
    recompute_batch_norms(judge, (batch(generator)[0] for _ in range(20)))
    save_judge(judge, weights / FILE)


def load_eye_judge(weights: Path) -> EyeJudge:
    """The shipped eye judge, for inference.

    Raises:
        FileNotFoundError: There is none in `weights`.
    """
    return load_judge_weights(EyeJudge(), weights / FILE)
