"""What LoRAs have to know of a base model: which modules are targets, their order, and their names in files.

Another base model is added by writing a class with this interface and naming it in `BASE_MODELS`; what training needs
of one is another interface, see docs/architecture.md.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import nn

MAX_LAYERS = 8
"""Most layers per block for which ldm's names of modules are tried."""
_DOTTED = ("unet.", "", "base_model.model.", "base_model.model.unet.", "diffusion_model.")


class BaseModelModules(Protocol):
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

    def name_tables(self, modules: Sequence[str]) -> Iterator[Mapping[str, str]]:
        """Yield tables of the modules by every name that files have for them, without the tensor's suffix.

        There are several where a name depends on the size of the network, the most common one first.
        """
        ...

    def part(self, name: str) -> Literal["network", "text encoder"] | None:
        """Return which part of the base model a file's name of a layer belongs to; None if it is neither."""
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
    _text_encoder = re.compile(
        r"^(lora_te\d*_|(base_model\.model\.)?(text_encoders?(_\d)?|text_model)\.|te\d?_|clip_[lg]\.|bundle_emb\.)"
    )
    _top = (
        r"((down|up|input|output)_blocks|mid_block|middle_block|conv_(in|out|norm_out)|time_embed(ding)?|add_embedding"
        r"|label_emb|out)"
    )
    _network = re.compile(
        rf"^((lora_unet_|lycoris_){_top}([._]|$)"
        rf"|((base_model\.model\.)?(unet\.)?|(model\.)?diffusion_model\.){_top}(\.|$))"
    )

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

    def name_tables(self, modules: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yield tables of kohya's, LyCORIS's, PEFT's and ldm's names, by the number of layers per block in ldm's."""
        published = int(self.unet_config["layers_per_block"])
        for layers in (published, *(number for number in range(1, MAX_LAYERS + 1) if number != published)):
            yield {name: module for module in modules for name in self.known_names(module, layers)}

    def known_names(self, module: str, layers_per_block: int) -> list[str]:
        """List every key under which files have the module, without the tensor's suffix."""
        ldm = self.ldm_name(module, layers_per_block)
        dotted = [prefix + module for prefix in _DOTTED]
        underscored = [f"lycoris_{module.replace('.', '_')}", _kohya(module), _kohya(ldm)]
        return [*underscored, *dotted, f"diffusion_model.{ldm}", f"model.diffusion_model.{ldm}"]

    def part(self, name: str) -> Literal["network", "text encoder"] | None:
        """Tell by the name's beginning; embeddings that OneTrainer bundles with a LoRA are the text encoders'."""
        if self._text_encoder.match(name):
            return "text encoder"
        return "network" if self._network.match(name) else None

    def ldm_name(self, module: str, layers_per_block: int = 2) -> str:
        """Return the module's name in single-file checkpoints, `input_blocks.4.1.…`; SDXL has two layers per block."""
        if module.startswith("mid_block.attentions.0."):
            return module.replace("mid_block.attentions.0.", "middle_block.1.", 1)
        match = self._numbered.match(module)
        if match is None:
            return module
        stage, block, layer = match[1], int(match[2]), int(match[3])
        number = block * (layers_per_block + 1) + layer
        prefix = f"input_blocks.{number + 1}.1." if stage == "down_blocks" else f"output_blocks.{number}.1."
        return prefix + module[match.end() :]


def _kohya(name: str) -> str:
    return f"lora_unet_{name.replace('.', '_')}"


BASE_MODELS: dict[str, BaseModelModules] = {base.name: base for base in (SDXL(),)}
"""By the name that a layout has."""


def base_model(name: str) -> BaseModelModules:
    """Return the base model of this name.

    Raises:
        ValueError: This version does not know it.
    """
    if name not in BASE_MODELS:
        raise ValueError(
            f"the base model {name!r} is not among {', '.join(BASE_MODELS)}, which this version knows: update DiffLoRA."
        )
    return BASE_MODELS[name]
