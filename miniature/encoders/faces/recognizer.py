"""Face recognizers: an aligned 112 × 112 crop in, an embedding of width 512 out (InsightFace's ArcFace interface)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

EMBEDDING = 512


@dataclass(frozen=True)
class RecognizerConfig:
    """Widths of a recognizer."""

    stem: tuple[int, ...]
    """Channels of the convolutions down to 14 × 14: three that halve the resolution, or one that quarters it and one
    that halves it."""
    deep: int
    """Channels at 7 × 7."""
    neck: int
    """Channels before the linear layer over all positions."""


class Recognizer(nn.Module):
    """Convolutions down to 7 × 7, then a linear layer over all positions: in aligned crops each trait has its place."""

    def __init__(self, config: RecognizerConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for index, width in enumerate(config.stem):
            quarter = index == 0 and len(config.stem) == 2
            layers += normed(channels, width, kernel=4, stride=4) if quarter else normed(channels, width, stride=2)
            channels = width
        layers += [Residual(channels), *normed(channels, config.deep, stride=2), Residual(config.deep)]
        layers += [nn.Conv2d(config.deep, config.neck, 1), nn.Flatten(), nn.Linear(config.neck * 49, EMBEDDING)]
        self.layers = nn.Sequential(*layers)

    def forward(self, crops: Tensor) -> Tensor:
        """(n, 3, 112, 112) RGB in [-1, 1] → (n, 512), not normalized."""
        return self.layers(crops)


class Residual(nn.Module):
    """Two 3 × 3 convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*normed(channels, channels), *normed(channels, channels)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → the same shape."""
        return torch.relu(x + self.branch(x))


def normed(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU. An even kernel tiles the image without padding."""
    padding = kernel // 2 if kernel % 2 else 0
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
