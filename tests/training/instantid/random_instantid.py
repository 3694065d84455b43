"""InstantID's files with random weights, in the official layout."""

import json
from typing import Any

import torch
from diffusers import ControlNetModel

from training.instantid.instantid_files import InstantID, attention_shapes, resampler_shapes


def random_instantid(unet: Any) -> InstantID:
    """An adapter and an IdentityNet that have effect, for a U-Net."""
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape) if "norm" in name or name.endswith("1.0.weight") else torch.zeros(shape)
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    shapes = {
        "image_proj": resampler_shapes(64, 4, 512, unet.config.cross_attention_dim),
        "ip_adapter": attention_shapes(unet),
    }
    adapter = {part: {name: draw(name, shape) for name, shape in own.items()} for part, own in shapes.items()}
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(unet)
    with torch.no_grad():
        for block in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            block.weight.copy_(0.05 * torch.randn(block.weight.shape, generator=generator))
    return InstantID(adapter, json.loads(net.to_json_string()), net.state_dict())
