"""A Control-LoRA for the miniature's base model: a ControlNet whose weights are the base model's own plus low rank.

Trained in diffusers, written in the layout of Control-LoRA files, which ComfyUI's Load ControlNet Model reads: it
copies the U-Net's weights and adds `up @ down`, so that the file holds only what is new.

    lora_controlnet              empty, marks the format
    input_hint_block.{0,2,…,14}  convolutions of the edge image
    zero_convs.N.0, middle_block_out.0
    input_blocks.…  .up, .down   low-rank changes of linear layers and convolutions
"""

from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from difflora_core.files import write_tensors

from .config import UNET
from .model import TextCondition, added_conditions
from .single_file_names import unet_names

RANK = 4
HINT_CHANNELS = (16, 32, 96, 256)
"""Widths of the edge image's convolutions, fixed by ComfyUI."""
PARAMETRIZATION = "parametrizations.weight.0"


class LowRank(nn.Module):
    """A parametrization: weight → weight + up @ down, which starts at no change."""

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        """Draw `down` and set `up` to zero, for the weight (out, in, …) of a linear layer or a convolution."""
        super().__init__()
        inputs = weight[0].numel()
        self.down = nn.Parameter((torch.rand(RANK, inputs, generator=generator) * 2 - 1) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), RANK))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, of the same shape."""
        return weight + (self.up @ self.down).view_as(weight)


class ControlLoRA(nn.Module):
    """The ControlNet in training: low-rank changes, hint and zero convolutions are trained, the rest is frozen."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=HINT_CHANNELS)
        self.net.requires_grad_(False)
        generator = torch.Generator().manual_seed(2408)  # the shipped Control-LoRA began with these draws
        for part in (self.net.down_blocks, self.net.mid_block):
            layers = [layer for layer in part.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
            for layer in layers:
                parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, generator))
        for part in (
            self.net.controlnet_cond_embedding,
            self.net.controlnet_down_blocks,
            self.net.controlnet_mid_block,
        ):
            part.requires_grad_(True)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, condition: TextCondition, hint: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Residuals for the U-Net's skip connections and its middle, from hint (batch, 3, 128, 128) in [0, 1]."""
        added = added_conditions(condition.pooled, noisy.dtype)
        return self.net(noisy, timesteps, condition.context, hint, added_cond_kwargs=added, return_dict=False)


def export_control(control: ControlLoRA) -> dict[str, Tensor]:
    """The trained parts under the names of a Control-LoRA file, float16."""
    state = dict(control.net.named_parameters())
    changed = [name.removesuffix(f".{PARAMETRIZATION}.up") for name in state if name.endswith(f"{PARAMETRIZATION}.up")]
    places = unet_names(UNET, [f"{name}.weight" for name in changed])
    tensors = {"lora_controlnet": torch.zeros(0)}
    for name in changed:
        up, down = state[f"{name}.{PARAMETRIZATION}.up"], state[f"{name}.{PARAMETRIZATION}.down"]
        shape = state[f"{name}.parametrizations.weight.original"].shape
        place = places[f"{name}.weight"].removesuffix("weight")
        tensors[place + "up"] = up.view(*up.shape, *(1,) * (len(shape) - 2))
        tensors[place + "down"] = down.view(len(down), *shape[1:])
    for name, tensor in state.items():
        if name.startswith("controlnet_"):
            tensors[_stored_name(name)] = tensor
    return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}


def _stored_name(name: str) -> str:
    """The file's name of a tensor that is stored as it is, not as a low-rank change."""
    part, *rest = name.split(".")
    kind = rest[-1]
    if part == "controlnet_mid_block":
        return f"middle_block_out.0.{kind}"
    if part == "controlnet_down_blocks":
        return f"zero_convs.{rest[0]}.0.{kind}"
    last = 2 * (len(HINT_CHANNELS) - 1) + 1
    number = {"conv_in": 0, "conv_out": last}.get(rest[0])
    return f"input_hint_block.{2 * (int(rest[1]) + 1 if number is None else number)}.{kind}"


def write_control(control: ControlLoRA, path: Path) -> None:
    """Write the Control-LoRA file."""
    write_tensors(path, export_control(control), {"what": f"Control-LoRA of the miniature, Canny edges, rank {RANK}"})
