"""A linear layer for widths that a GPU multiplies slowly: its matrices are padded with zeros for the product alone.

In 16 bits a row of 1454 numbers (the paper's width, 2 · 727) is 2,908 bytes, no multiple of 16, and no fast tensor-core
kernel takes it: on an H100 1454 → 5816 reaches 24 % of the rate of large products, 1456 → 5816 70 %, 1472 → 5816 75 %.

Parameters keep their true widths, and the padding is made anew in each forward pass. So optimizer, EMA, DDP, FSDP and
files know nothing of it, and autograd cuts the padding from the gradients: there is nothing that has to stay zero from
step to step. It costs a few passes over the memory of weight and input, little beside a product of many rows; compiled
blocks do it within the operations around it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ALIGNED = 8
"""Widths that are multiples of it have rows of whole 16 bytes in 16 bits, and thereby a fast kernel."""
MULTIPLE = 64
"""Width of a kernel's tile, to which other widths are padded."""
MIN_ROWS = 1024
"""Rows from which matrices are padded. By arithmetic, not measured: writing a padded weight costs an H100 (3.35 TB/s)
the time that 250 rows gain at the rates above; it also starts some six kernels more, and starting kernels is what
sampling one person's LoRA (320 rows) waits for."""


class PaddedLinear(nn.Linear):
    """Linear layer, in value and in name the one of torch, that pads its matrices with zeros where that is faster."""

    def __init__(self, in_features: int, out_features: int, keep_padding: bool = False) -> None:
        """Make a layer with the first weights of `nn.Linear`.

        Args:
            in_features: Width of the input.
            out_features: Width of the output.
            keep_padding: Leave the zeros on the output. What follows has to map zero to zero, up to the next
                `PaddedLinear`, whose matrices have the same two widths, so that it pads if and only if this one does.
        """
        super().__init__(in_features, out_features)
        self.keep_padding = keep_padding
        self.unaligned = bool(in_features % ALIGNED or out_features % ALIGNED)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in_features), or the same with zeros up to a multiple of 64, to (…, out_features)."""
        if not (self.unaligned and self.is_faster(x)):
            return super().forward(x)
        dtype = product_dtype(x)  # cast before they are padded: half the bytes
        wide_in, wide_out = padded_width(self.in_features), padded_width(self.out_features)
        more_out = wide_out - self.out_features
        weight = F.pad(self.weight.to(dtype), (0, wide_in - self.in_features, 0, more_out))  # (wide_out, wide_in)
        bias = F.pad(self.bias.to(dtype), (0, more_out)) if more_out else self.bias.to(dtype)
        x = x.to(dtype)
        if x.shape[-1] != wide_in:
            x = F.pad(x, (0, wide_in - x.shape[-1]))
        out = F.linear(x, weight, bias)  # (…, wide_out)
        return out if self.keep_padding else out[..., : self.out_features]

    def is_faster(self, x: Tensor) -> bool:
        """Tell whether padded products are faster for this input.

        Only tensor cores want alignment. On a CPU a training step of a padded block takes 1.06 (2,560 rows) to 1.3 of
        the time (320 rows) in float32 and 0.97 to 1.04 in bfloat16 (`python -m benchmarks.dit --padding`): no gain
        worth a result that isn't the same bit for bit.
        """
        rows = x.numel() // x.shape[-1]
        return x.is_cuda and rows >= MIN_ROWS and product_dtype(x).itemsize == 2


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a product with `x` is computed: autocast's, or else its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def padded_width(width: int) -> int:
    """Round a width up to a multiple of 64."""
    return -(-width // MULTIPLE) * MULTIPLE
