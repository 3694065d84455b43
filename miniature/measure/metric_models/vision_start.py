"""How the vision transformers of this package start, and what helps them to see small things.

The public models have seen millions of images. Of a few thousand drawings a transformer with random weights soon learns
the colors of large areas, and details hardly: a detail changes a patch's embedding less than its color does, and the
embedding of a position is small beside both. So patches are whitened at the start and positions are large (both our
choice), and the networks that are trained with captions also learn to classify the attributes that captions name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miniature.measure.judge import ATTRIBUTES, attribute_indices
from miniature.world.scenes import Scene

from .drawn_images import DrawnImages, softened_pixels

POSITION_SCALE = 0.7
"""Largest value of a position's embedding."""
IMAGES = 192
"""That patches are whitened by."""
DAMPING = 0.3
"""Share of the middle variance that is added to all: noise is not made as large as details."""


@torch.no_grad()
def start_vision(patches: nn.Conv2d, positions: Tensor, images: Tensor) -> None:
    """Set the first layer of a vision transformer in place.

    Args:
        patches: Its patch embedding.
        positions: Its position embeddings without that of the class token: (tokens, width), row by row of the image.
        images: Images as it takes them, (n, 3, side, side).
    """
    patches.weight.copy_(whitening(images, patches.kernel_size[0], patches.out_channels))
    if patches.bias is not None:
        patches.bias.zero_()
    positions.copy_(POSITION_SCALE * waves(round(len(positions) ** 0.5), positions.shape[1]))


def whitening(images: Tensor, patch: int, width: int) -> Tensor:
    """Return filters (width, 3, patch, patch) whose responses to the images' patches have about one variance each.

    They are the largest principal components of patches, divided by their standard deviations.
    """
    columns = F.unfold(images, patch, stride=patch).transpose(1, 2).flatten(0, 1)  # (patches, 3 · patch²)
    variances, components = torch.linalg.eigh(torch.cov(columns.T))
    variances, components = variances.flip(0)[:width], components.flip(1)[:, :width]
    scaled = components / (variances + DAMPING * variances[len(variances) // 2]).sqrt()
    return scaled.T.reshape(-1, 3, patch, patch)


def waves(side: int, width: int) -> Tensor:
    """Return sines and cosines of both coordinates, from half a wave per image on: (side², width)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    frequencies = 0.5 * math.pi * 2.0 ** (6.0 * torch.arange(width // 4) / (width // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (x, y)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def sample_pixels(images: DrawnImages) -> Tensor:
    """Draw images that patches are whitened by: float32 (n, 3, 128, 128) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return softened_pixels(images.draw(min(IMAGES, len(images)), generator).images, generator)


class AttributeHeads(nn.Module):
    """Linear classifiers of the attributes that captions name; they are left out of the finished network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in ATTRIBUTES.items()})

    def forward(self, features: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Return the sum of the attributes' losses of features (n, width), and the share of right answers."""
        expected, logits = attribute_indices(scenes), {name: head(features) for name, head in self.heads.items()}
        loss = torch.stack([F.cross_entropy(logits[name], expected[name]) for name in expected]).sum()
        right = torch.stack([(logits[name].argmax(1) == expected[name]).float().mean() for name in expected])
        return loss, right.mean()
