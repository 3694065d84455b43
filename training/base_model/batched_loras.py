"""LoRAs of many people over one frozen U-Net, in one batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@contextmanager
def stacked_loras(unet: nn.Module, layout: LoRALayout, flat: Tensor) -> Iterator[None]:
    """While open, each person's samples in a batch go through the person's own LoRA.

    The batch is ordered by person, with as many samples of each. Layers are changed by forward hooks, which are always
    removed again. The low-rank branch is computed in the dtype of the layer's input: bfloat16 in a bfloat16 network,
    even though `flat` is float32.

    Args:
        unet: The frozen network.
        layout: Of the LoRAs.
        flat: One LoRA per person (people, numel).
    """
    factors = layout.unflatten(flat)
    handles = []
    try:
        for module in layout.modules:
            handles.append(
                unet.get_submodule(module.name).register_forward_hook(_low_rank_branch(*factors[module.name]))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _low_rank_branch(down: Tensor, up: Tensor) -> Hook:
    """Make a hook that adds each person's low-rank branch; down (people, rank, in), up (people, out, rank)."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        grouped = x.reshape(len(down), -1, x.shape[-1])  # (people, samples · tokens, in)
        hidden = torch.bmm(grouped, down.mT.to(x.dtype))
        base = output.reshape(len(down), -1, output.shape[-1])
        return torch.baddbmm(base, hidden, up.mT.to(x.dtype)).view(output.shape)

    return hook
