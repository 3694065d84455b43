"""Half precision for weights, float32 for statistics: which of a network's tensors a dtype applies to.

Statistics (mean LoRA, scales, deviations) are buffers. In half precision they would shift every LoRA by their rounding.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def exact_state(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copy a network's state for a file: weights in `dtype`, statistics in float32, on the CPU, contiguous."""
    statistics = dict(network.named_buffers())
    return {
        name: (tensor.float() if name in statistics else tensor.to(dtype)).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }


def cast_weights(network: Network, device: str | torch.device, dtype: torch.dtype) -> Network:
    """Cast a network's weights and move it to a device, in place; statistics keep their dtype."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    network.to(device)
    return network
