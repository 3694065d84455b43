"""Parameters, operations and activations of the networks, counted from their settings without torch.

Operations are two for a multiplication and an addition, as torch's counter has them. Tests compare the counts with the
networks themselves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.denoiser.config import DiTConfig, MIFConfig

SDXL_UNET: Mapping[str, Any] = {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
}
"""Of `difflora_core.lora.base_model.SDXL`, which needs torch."""
TIME_WIDTH = 256
"""Of `difflora_core.denoiser.dit`."""
LAE_ACTIVATION_BYTES = {"conv": 32.2, "token": 41.0}
"""For each value of a LoRA: 187 and 238 MB for each of SDXL's of rank 4 (bf16; benchmarks/lae_full_size.py, CPU)."""
DIT_ACTIVATION_BYTES = 76
"""For each layer, token and unit of width, bf16: 72 to 76 by `training.engine.step_cost.measure_activations` of `paper`
and `small` on a CPU."""
CHECKPOINTED_BYTES = 4
"""The same with gradient checkpointing, which keeps the float32 input of each block; the block that is computed again
has its activations beside it."""


@dataclass(frozen=True)
class LoRASize:
    """Size of all LoRAs of a layout."""

    values: int
    """Of a LoRA."""
    modules: int
    """Target layers."""
    blocks: int
    """Transformer blocks."""


@dataclass(frozen=True)
class NetworkSize:
    """What a training step depends on."""

    parameters: int
    """All of them are trained."""
    operations: float
    """Of one sample's forward pass."""
    activations: float
    """Bytes of one sample that are kept for the backward pass."""
    checkpointed: float = 0.0
    """The same with gradient checkpointing; of a DiT."""
    layers: int = 0
    """Transformer blocks of a DiT."""


def lora_size(rank: int, feed_forward: bool, unet: Mapping[str, Any] | None = None) -> LoRASize:
    """Count a LoRA's values: rank × (in + out) over the target layers.

    A transformer block of width c has eight attention projections, c → c but for the keys and values of the text, and
    with `feed_forward` c → 8c and 4c → c.

    Args:
        rank: Of every module.
        feed_forward: Whether feed-forward layers are targets.
        unet: Configuration of a diffusers U-Net with SDXL's kinds of blocks; None is SDXL's.
    """
    unet = unet or SDXL_UNET
    channels, text = unet["block_out_channels"], unet["cross_attention_dim"]
    layers = unet["layers_per_block"]
    depths = unet["transformer_layers_per_block"]
    depths = [depths] * len(channels) if isinstance(depths, int) else depths
    blocks = dict.fromkeys(channels, 0)
    for kind, width, depth in zip(unet["down_block_types"], channels, depths, strict=True):
        blocks[width] += layers * depth * ("CrossAttn" in kind)
    for kind, width, depth in zip(unet["up_block_types"], reversed(channels), reversed(depths), strict=True):
        blocks[width] += (layers + 1) * depth * ("CrossAttn" in kind)
    blocks[channels[-1]] += depths[-1]  # the middle block
    per_rank = sum(
        count * (6 * 2 * width + 2 * (text + width) + feed_forward * (9 + 5) * width) for width, count in blocks.items()
    )
    count = sum(blocks.values())
    return LoRASize(rank * per_rank, count * (10 if feed_forward else 8), count)


def lae_size(config: LAEConfig, lora: LoRASize) -> NetworkSize | None:
    """Count an autoencoder; None for the baselines, and where maps are shared, which nothing ships."""
    if config.kind not in LAE_ACTIVATION_BYTES or not config.local:
        return None
    if config.kind == "conv":
        units = math.ceil(lora.values / (config.chunk * config.groups)) * config.groups
        values = units * config.chunk
        middle = _residual_convolutions(config, units)
    else:
        units = lora.modules if config.token_of == "module" else lora.blocks
        values = lora.values
        middle = _token_transformer(config, units, lora)
    span, latents = units // config.groups * config.channels, config.tokens // config.groups * config.width
    unit_map, group_map = values * config.channels, config.groups * span * latents
    encoders = unit_map + units * config.channels + (group_map + config.groups * latents) * (1 + config.variational)
    decoders = values + config.groups * span + (0 if config.tied else unit_map + group_map)
    return NetworkSize(
        encoders + decoders + 2 * middle[0],
        2 * (2 * unit_map + 2 * group_map + 2 * middle[1]),
        LAE_ACTIVATION_BYTES[config.kind] * lora.values,
    )


def _residual_convolutions(config: LAEConfig, units: int) -> tuple[int, int]:
    """Parameters and multiplications of the convolutions on one side."""
    weights = 2 * config.channels * config.hidden * config.kernel
    return config.blocks * (weights + config.hidden + config.channels), config.blocks * units * weights


def _token_transformer(config: LAEConfig, units: int, lora: LoRASize) -> tuple[int, int]:
    """Parameters and multiplications of the transformer on one side."""
    width, edges = config.hidden, 2 * config.channels * config.hidden
    kinds = lora.modules // lora.blocks if config.token_of == "module" else 1
    layer = 12 * width**2
    parameters = (kinds + lora.blocks) * width + edges + width + config.channels + config.blocks * (layer + 13 * width)
    return parameters, units * (edges + config.blocks * (layer + 2 * units * width))


def denoiser_size(dit: DiTConfig, mif: MIFConfig) -> NetworkSize:
    """Count MIF and DiT. The embeddings of what a token stands for are left out."""
    width, inner, hidden = dit.width, dit.heads * dit.head_width, int(dit.width * dit.mlp_ratio)
    per_token = 4 * width * inner + 2 * width * hidden
    biases = 3 * inner + 2 * dit.head_width + width + hidden + width + 6 * width
    block = per_token + biases + 6 * width**2
    once = TIME_WIDTH * width + width**2 + mif.width * width + 2 * width**2  # timestep, condition, last modulation
    ends = 2 * dit.latent_width * width
    around = ends + once + width * (1 + 1 + 1 + 1 + 2) + dit.latent_width + dit.tokens * width
    multiplications = dit.tokens * (ends + dit.layers * (per_token + 2 * dit.tokens * inner)) + once
    multiplications += dit.layers * 6 * width**2 + _mif_multiplications(mif)
    layer_bytes = dit.tokens * width * DIT_ACTIVATION_BYTES
    kept, checkpointed = dit.layers * layer_bytes, dit.layers * dit.tokens * width * CHECKPOINTED_BYTES + layer_bytes
    parameters = dit.layers * block + around + _mif_parameters(mif)
    return NetworkSize(parameters, 2.0 * multiplications, kept, checkpointed, dit.layers)


def _mif_multiplications(mif: MIFConfig) -> int:
    return (mif.face_width + mif.image_width) * mif.width + 4 * mif.width**2 + 2 * mif.width


def _mif_parameters(mif: MIFConfig) -> int:
    width = mif.width
    experts = sum(entry * width + width + 2 * width + width**2 + width for entry in (mif.face_width, mif.image_width))
    gate = 2 * width * width + width + 2 * width + 2
    return experts + gate + width
