"""Names inside an SDXL single-file checkpoint: the U-Net's blocks by order of execution, CLIP-G as open_clip."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

STEM = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPEN_CLIP_STEM = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def unet_names(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Map each name of a diffusers U-Net to its name in the single file (without `model.diffusion_model.`).

    Args:
        config: Of UNet2DConditionModel; block types, layers_per_block and the number of levels are used.
        names: Of its state dict.

    Raises:
        ValueError: A name belongs to no known block.
    """
    blocks = _unet_blocks(config)
    # The longest block name that fits, so that "mid_block.resnets.1" does not take "mid_block.resnets.10".
    pattern = re.compile("(" + "|".join(sorted(map(re.escape, blocks), key=len, reverse=True)) + r")\.(.+)")
    mapped = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            raise ValueError(f"U-Net tensor {name!r} belongs to no block of an SDXL U-Net; known: {sorted(blocks)}")
        block, rest = match.groups()
        if ".resnets." in block:
            layer, kind = rest.rsplit(".", 1)
            rest = f"{RESNET[layer]}.{kind}"
        mapped[name] = f"{blocks[block]}.{rest}"
    return mapped


def _unet_blocks(config: Mapping[str, Any]) -> dict[str, str]:
    """Blocks of a diffusers U-Net and their places: the single file numbers resnets and resampling layers in order."""
    levels = len(config["block_out_channels"])
    layers = config["layers_per_block"]
    depth = [layers] * levels if isinstance(layers, int) else list(layers)
    blocks = dict(STEM)
    place = 1
    for level in range(levels):
        for layer in range(depth[level]):
            blocks[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{place}.0"
            blocks[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{place}.1"
            place += 1
        if level < levels - 1:
            blocks[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
            place += 1
    place = 0
    for level, layers in enumerate(reversed(depth)):
        attends = "CrossAttn" in config["up_block_types"][level]
        for layer in range(layers + 1):
            blocks[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{place}.0"
            blocks[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{place}.1"
            place += 1
        # Upsampling shares the place of the level's last layer, behind its attention where it has one.
        blocks[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{place - 1}.{2 if attends else 1}.conv"
    return blocks


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP text weights from transformers' names to open_clip's: q, k, v stacked, the projection transposed."""
    result = {}
    for name, tensor in state.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name == "text_projection.weight":
            result["text_projection"] = tensor.T
        elif layer is None:
            result[OPEN_CLIP_STEM[name]] = tensor
        elif layer[2] in OPEN_CLIP_LAYER:
            result[f"transformer.resblocks.{layer[1]}.{OPEN_CLIP_LAYER[layer[2]]}.{layer[3]}"] = tensor
        elif layer[2] == "self_attn.q_proj":
            parts = [state[name.replace("q_proj", projection)] for projection in PROJECTIONS]
            result[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(parts)
    return result


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP text weights from open_clip's names back to transformers'."""
    layer_names = {theirs: ours for ours, theirs in OPEN_CLIP_LAYER.items()}
    stem = {theirs: ours for ours, theirs in OPEN_CLIP_STEM.items()}
    result = {}
    for name, tensor in state.items():
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name)
        if name == "text_projection":
            result["text_projection.weight"] = tensor.T.contiguous()
        elif layer is None:
            result[stem[name]] = tensor
        elif layer[2] == "attn.in_proj":
            for projection, part in zip(PROJECTIONS, tensor.chunk(3), strict=True):
                result[f"encoder.layers.{layer[1]}.self_attn.{projection}.{layer[3]}"] = part.contiguous()
        else:
            result[f"encoder.layers.{layer[1]}.{layer_names[layer[2]]}.{layer[3]}"] = tensor
    return result
