"""LoRAs of many people over one frozen U-Net, in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout


@contextmanager
def stacked_loras(unet: nn.Module, layout: LoRALayout, flat: Tensor) -> Iterator[None]:
    """While open, sample i of a batch of `people × rows` gets LoRA i // rows of flat (people, numel).

    The batch is ordered by person. Layers are changed by forward hooks that are removed again, whatever happens. The
    low-rank branch is computed in the dtype of the layer's input: bfloat16 in a bfloat16 network, though flat is
    float32.
    """
    factors = layout.unflatten(flat)
    handles = []

    def branch(down: Tensor, up: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0]
            grouped = x.reshape(len(down), -1, x.shape[-1])  # (people, rows · tokens, in)
            hidden = torch.bmm(grouped, down.mT.to(x.dtype))
            base = output.reshape(len(down), -1, output.shape[-1])
            return torch.baddbmm(base, hidden, up.mT.to(x.dtype)).view(output.shape)

        return hook

    try:
        for module in layout.modules:
            down, up = factors[module.name]
            handles.append(unet.get_submodule(module.name).register_forward_hook(branch(down, up)))
        yield
    finally:
        for handle in handles:
            handle.remove()
