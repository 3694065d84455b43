"""Inception v3 as FID's definition uses it: the TensorFlow graph of 2015-12-05, cut after the pooled features.

It differs from torchvision's network of the same names: averages do not count padding, and the last block pools by
maximum (Szegedy et al., arXiv 1512.00567; the conversions to PyTorch by pytorch-fid and torch-fidelity). Names of
tensors are those of their public weights, because they are its interface.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model_files import load_strictly

WIDTH = 2048
"""Of the features."""
IGNORED, COUNTER = "fc.", "num_batches_tracked"
"""Tensors of the file that are not used: the classifier behind the features, and counters of its training."""


class Conv(NamedTuple):
    """A convolution with batch norm and ReLU. With stride 1 it keeps the size, with stride 2 it does not pad."""

    name: str
    width: int
    kernel: tuple[int, int]
    stride: int = 1


Step = Conv | tuple[Conv, Conv]
"""One convolution, or two of the same input whose outputs are concatenated."""
Pool = Literal["average", "max", "halve"]
"""The last branch: an average or a maximum of 3 × 3 before a convolution, or a maximum with stride 2 alone."""


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU: (n, before, h, w) → (n, width, h', w')."""

    def __init__(self, before: int, width: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, before, h, w)."""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches whose outputs are concatenated: (n, before, h, w) → (n, width, h', w')."""

    def __init__(self, before: int, branches: Sequence[Sequence[Step]], pool: Pool, pool_width: int = 0) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        for branch in branches:
            width = before
            for step in branch:
                convs = _convs(step)
                for conv in convs:
                    same = (conv.kernel[0] // 2, conv.kernel[1] // 2) if conv.stride == 1 else (0, 0)
                    self.add_module(conv.name, ConvNorm(width, conv.width, conv.kernel, conv.stride, same))
                width = sum(conv.width for conv in convs)
        if pool != "halve":
            self.branch_pool = ConvNorm(before, pool_width, (1, 1), 1, (0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, before, h, w)."""
        return torch.cat([*(self._run(branch, x) for branch in self.branches), self._pool(x)], dim=1)

    def _run(self, branch: Sequence[Step], x: Tensor) -> Tensor:
        for step in branch:
            x = torch.cat([self.get_submodule(conv.name)(x) for conv in _convs(step)], dim=1)
        return x

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool == "halve":
            return F.max_pool2d(x, 3, stride=2)
        if self.pool == "max":
            return self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))
        return self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))


def _convs(step: Step) -> tuple[Conv, ...]:
    return (step,) if isinstance(step, Conv) else step


def _block_35(before: int, pool_width: int) -> Block:
    branches = (
        (Conv("branch1x1", 64, (1, 1)),),
        (Conv("branch5x5_1", 48, (1, 1)), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64, (1, 1)),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
    )
    return Block(before, branches, "average", pool_width)


def _block_35_to_17(before: int) -> Block:
    branches = (
        (Conv("branch3x3", 384, (3, 3), 2),),
        (
            Conv("branch3x3dbl_1", 64, (1, 1)),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), 2),
        ),
    )
    return Block(before, branches, "halve")


def _block_17(before: int, inner: int) -> Block:
    branches = (
        (Conv("branch1x1", 192, (1, 1)),),
        (
            Conv("branch7x7_1", inner, (1, 1)),
            Conv("branch7x7_2", inner, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", inner, (1, 1)),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
    )
    return Block(before, branches, "average", 192)


def _block_17_to_8(before: int) -> Block:
    branches = (
        (Conv("branch3x3_1", 192, (1, 1)), Conv("branch3x3_2", 320, (3, 3), 2)),
        (
            Conv("branch7x7x3_1", 192, (1, 1)),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), 2),
        ),
    )
    return Block(before, branches, "halve")


def _block_8(before: int, pool: Pool) -> Block:
    branches = (
        (Conv("branch1x1", 320, (1, 1)),),
        (
            Conv("branch3x3_1", 384, (1, 1)),
            (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Conv("branch3x3dbl_1", 448, (1, 1)),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
    )
    return Block(before, branches, pool, 192)


class Inception(nn.Module):
    """Images (n, 3, 299, 299), (value − 128) / 128 of values in 0 … 255 → features (n, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), 2, (0, 0))
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3), 1, (0, 0))
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3), 1, (1, 1))
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1), 1, (0, 0))
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3), 1, (0, 0))
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _block_35_to_17(288)
        self.Mixed_6b = _block_17(768, 128)
        self.Mixed_6c = _block_17(768, 160)
        self.Mixed_6d = _block_17(768, 160)
        self.Mixed_6e = _block_17(768, 192)
        self.Mixed_7a = _block_17_to_8(768)
        self.Mixed_7b = _block_8(1280, "average")
        self.Mixed_7c = _block_8(WIDTH, "max")

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> Self:
        """Make the network with public weights, for inference.

        Raises:
            ValueError: A tensor is missing, unknown or of another shape; the first one is named.
        """
        with torch.device("meta"):
            network = cls()
        network = network.to_empty(device="cpu")  # every tensor is loaded below; drawing them first takes long
        counters = {name: torch.zeros((), dtype=torch.long) for name in network.state_dict() if name.endswith(COUNTER)}
        used = {name: tensor for name, tensor in state.items() if not name.startswith(IGNORED)}
        load_strictly(network, counters | used, "Inception's file")
        return network.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features (n, 2048) of images (n, 3, side, side)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)  # (n, 192, 35, 35)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # (n, 288, 35, 35)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # (n, 768, 17, 17)
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
