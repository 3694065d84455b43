"""What LoRAs have to know of a base model: which modules are targets, their order, and their names in files.

Another base model is added by writing a class with this interface and naming it in `BASE_MODELS`.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn


class BaseModel(Protocol):
    """A base model as LoRA layouts and LoRA files see it. Modules are given by their names in diffusers."""

    name: str
    """What a layout that is written to a file calls the base model."""

    def network(self, config: Mapping[str, Any] | None = None) -> nn.Module:
        """Build diffusers' network without weights (meta device), of the published or another configuration."""
        ...

    def is_target(self, module: str, feed_forward: bool) -> bool:
        """Tell whether LoRAs change this linear layer; feed-forward layers are targets only if asked for."""
        ...

    def stage(self, module: str) -> int:
        """Return the position of the module's stage along the signal."""
        ...

    def split(self, module: str) -> tuple[str, str]:
        """Split a module's name into its transformer block and what it is in there."""
        ...

    def kohya_name(self, module: str) -> str:
        """Return the module's key in kohya files, without the factor's suffix."""
        ...

    def peft_name(self, module: str) -> str:
        """Return the module's key in PEFT files for diffusers, without the factor's suffix."""
        ...

    def known_names(self, module: str) -> list[str]:
        """List every key under which files have the module, without the factor's suffix."""
        ...


class SDXL:
    """Stable Diffusion XL, and any U-Net with its kinds of blocks, such as the miniature's."""

    name = "sdxl"
    unet_config: Mapping[str, Any] = {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    """What decides which layers the U-Net has, as the published configuration says."""

    _attention = re.compile(r"\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)$")
    _feed_forward = re.compile(r"\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)$")
    _block = re.compile(r"^(?P<block>.*\.transformer_blocks\.\d+)\.(?P<kind>.*)$")
    _numbered = re.compile(r"^(down_blocks|up_blocks)\.(\d+)\.attentions\.(\d+)\.")
    _stages = ("down_blocks", "mid_block", "up_blocks")

    def network(self, config: Mapping[str, Any] | None = None) -> nn.Module:
        """Build `diffusers.UNet2DConditionModel` on the meta device."""
        from diffusers import UNet2DConditionModel  # takes seconds, and only this method needs it

        with torch.device("meta"):
            unet: nn.Module = UNet2DConditionModel.from_config(dict(config or self.unet_config))
        return unet

    def is_target(self, module: str, feed_forward: bool) -> bool:
        """Attention projections are targets, which is our choice: the paper does not say."""
        if self._attention.search(module):
            return True
        return feed_forward and self._feed_forward.search(module) is not None

    def stage(self, module: str) -> int:
        """Down blocks, middle block, up blocks; diffusers registers the up blocks before the middle block."""
        return self._stages.index(module.split(".")[0])

    def split(self, module: str) -> tuple[str, str]:
        """Split into "….transformer_blocks.0" and "attn1.to_q"; a name without a block is a block of its own."""
        found = self._block.match(module)
        return (found["block"], found["kind"]) if found else (module, module.rsplit(".", 1)[-1])

    def kohya_name(self, module: str) -> str:
        """Return "lora_unet_down_blocks_1_…"."""
        return _kohya(module)

    def peft_name(self, module: str) -> str:
        """Return "unet.down_blocks.1.…"."""
        return f"unet.{module}"

    def known_names(self, module: str) -> list[str]:
        """List kohya's and PEFT's keys, with diffusers' names of modules and with those of single-file checkpoints."""
        ldm = self.ldm_name(module)
        dotted = [prefix + module for prefix in ("unet.", "", "base_model.model.", "base_model.model.unet.")]
        return [_kohya(module), _kohya(ldm), *dotted, f"diffusion_model.{ldm}", f"diffusion_model.{module}"]

    def ldm_name(self, module: str) -> str:
        """Return the module's name in SDXL's single-file checkpoints: `input_blocks.4.1.…`."""
        if module.startswith("mid_block.attentions.0."):
            return module.replace("mid_block.attentions.0.", "middle_block.1.", 1)
        match = self._numbered.match(module)
        if match is None:
            return module
        stage, block, layer = match[1], int(match[2]), int(match[3])
        number = block * (int(self.unet_config["layers_per_block"]) + 1) + layer
        prefix = f"input_blocks.{number + 1}.1." if stage == "down_blocks" else f"output_blocks.{number}.1."
        return prefix + module[match.end() :]


def _kohya(name: str) -> str:
    return f"lora_unet_{name.replace('.', '_')}"


BASE_MODELS: dict[str, BaseModel] = {base.name: base for base in (SDXL(),)}
"""By the name that a layout has."""


def base_model(name: str) -> BaseModel:
    """Return the base model of this name.

    Raises:
        ValueError: This version does not know it.
    """
    if name not in BASE_MODELS:
        raise ValueError(
            f"the base model {name!r} is not among {', '.join(BASE_MODELS)}, which this version knows: update DiffLoRA."
        )
    return BASE_MODELS[name]
