"""The change of a layer's output by a LoRA, computed without ΔW: strength · alpha / rank · up(down(x))."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRankBranch:
    """Two factors of a linear layer or a convolution."""

    def __init__(self, down: Tensor, up: Tensor, alpha: float | None, strength: float) -> None:
        """Store the factors, on any device.

        Args:
            down: (rank, in), of a convolution (rank, in, h, w), possibly flattened.
            up: (out, rank), of a convolution (out, rank, 1, 1).
            alpha: Of alpha / rank, which is 1 without one.
            strength: Of the LoRA.
        """
        self.down, self.up = down, up
        self.scale = strength * (1.0 if alpha is None else alpha / len(down))
        self._cast: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, layer: nn.Module) -> Tensor:
        """Compute what is to be added to the layer's output for its input, in the input's dtype.

        Args:
            x: (…, in), of a convolution (batch, in, h, w).
            layer: Of which a convolution's stride, padding and dilation are taken.
        """
        down, up = self._factors(x)
        if isinstance(layer, nn.Conv2d):
            kernel = down.reshape(len(down), x.shape[1], *layer.kernel_size)
            hidden = F.conv2d(x, kernel, None, layer.stride, layer.padding, layer.dilation)
            return F.conv2d(hidden, up.reshape(*up.shape[:2], 1, 1))
        return F.linear(F.linear(x, down.flatten(1)), up.flatten(1))

    def release(self) -> None:
        """Forget the copies on the device of the last call."""
        self._cast = None

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._cast is None or self._cast[0].device != x.device or self._cast[0].dtype != x.dtype:
            up = self.up.to(x.device, torch.float32) * self.scale
            self._cast = self.down.to(x.device, x.dtype), up.to(x.dtype)
        return self._cast
