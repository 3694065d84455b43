"""A face detector in SCRFD's form (Guo et al., 2021): strides 8, 16, 32, two square anchors per cell, five landmarks.

What InsightFace expects of such a network (insightface/model_zoo/scrfd.py): nine outputs, three of scores (cells · 2,
1), three of boxes (cells · 2, 4) as distances left, top, right, bottom from the cell's corner, three of landmarks
(cells · 2, 10) as offsets, both in units of the stride; the cell in row i and column j stands at pixel (j · stride,
i · stride).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))  # sides in pixels per stride, as in SCRFD
OUTPUTS = [f"{kind}_{stride}" for kind in ("score", "box", "landmarks") for stride in STRIDES]
VALUES = 15
"""Outputs per anchor: score, 4 distances, 5 × 2 offsets."""


class Detector(nn.Module):
    """A narrow trunk down to stride 32, a head at each of the last three strides; 0.37 M parameters.

    There is no feature pyramid: a drawn face is recognized at its own scale, and the deeper levels, dilated, cover a
    whole face of 450 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*downsample(3, 12), *downsample(12, 20))
        self.levels = nn.ModuleList(
            [
                nn.Sequential(*downsample(20, 36), Separable(36), Separable(36)),
                nn.Sequential(*downsample(36, 64), *(Separable(64, dilation=d) for d in (1, 2, 1))),
                nn.Sequential(*downsample(64, 80), *(Separable(80, dilation=d) for d in (1, 2, 3, 1))),
            ]
        )
        widths = (36, 64, 80)
        self.heads = nn.ModuleList(Head(*parts) for parts in zip(widths, ANCHORS, STRIDES, strict=True))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(n, 3, h, w) RGB, (x − 127.5) / 128, sides divisible by 32 → nine outputs in the order of `OUTPUTS`.

        Rows are (n · h/s · w/s · 2): cells row by row, anchors innermost. Scores are probabilities, in training logits.
        """
        x = self.stem(images)
        outputs = []
        for level, head in zip(self.levels, self.heads, strict=True):
            x = level(x)
            outputs.append(head(x))
        scores, boxes, landmarks = zip(*outputs, strict=True)
        if not self.training:
            scores = tuple(torch.sigmoid(score) for score in scores)
        return (*scores, *boxes, *landmarks)

    @torch.no_grad()
    def shift_scores(self, logits: float) -> None:
        """Add `logits` to every score before the sigmoid; with less than zero fewer faces are reported."""
        for head in self.heads:
            head.get_parameter("out.bias")[::VALUES] += logits


def downsample(inputs: int, outputs: int) -> list[nn.Module]:
    """3 × 3 convolution with stride 2, ReLU. No normalization: small and huge faces have different statistics."""
    convolution = nn.Conv2d(inputs, outputs, 3, 2, 1)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return [convolution, nn.ReLU()]


class Separable(nn.Module):
    """Residual block: depthwise 3 × 3, then two pointwise layers, the last of which starts near zero."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        nn.init.normal_(self.narrow.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → the same shape."""
        return x + self.narrow(torch.relu(self.wide(self.depthwise(x))))


class Head(nn.Module):
    """Score, box and landmarks of two anchors per cell."""

    def __init__(self, channels: int, anchors: tuple[float, float], stride: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(Separable(channels), Separable(channels), nn.Conv2d(channels, 96, 1), nn.ReLU())
        self.out = nn.Conv2d(96, 2 * VALUES, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        rare = torch.zeros(2, VALUES)
        rare[:, 0] = -4.0  # most cells have no face
        self.out.bias = nn.Parameter(rare.flatten())
        # The network predicts in anchor sides, so that all levels have values of like size; the outputs are in strides.
        self.register_buffer("units", torch.tensor(anchors)[:, None] / stride, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, channels, h, w) → scores (rows, 1), boxes (rows, 4), landmarks (rows, 10) with rows = n · h · w · 2."""
        values = rearrange(self.out(self.mix(x)), "n (a k) h w -> (n h w) a k", k=VALUES)
        rows = [values[..., :1], values[..., 1:5] * self.units, values[..., 5:] * self.units]
        score, box, landmarks = (rearrange(part, "r a k -> (r a) k") for part in rows)
        return score, box, landmarks
