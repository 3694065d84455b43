"""The tiny SDXL as a model configuration: SDXL's own classes, with sizes read from the checkpoint's tensors."""

from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
from torch import Tensor

from .latent_size import TinySDXL

HEAD_WIDTHS = "miniature.head_widths"
"""Tensor (3,): width of one attention head in U-Net, CLIP-L and CLIP-G, which no shape in the file shows."""
CLIP_L = "conditioner.embedders.0.transformer.text_model."
CLIP_G = "conditioner.embedders.1.model."


class MiniatureLatent(comfy.latent_formats.SDXL):
    """SDXL's latent with the checkpoint's number of channels; the preview, made for four of them, is left out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.latent_channels = channels
        self.latent_rgb_factors = self.latent_rgb_factors_bias = self.taesd_decoder_name = None


class MiniatureSDXL(comfy.supported_models.SDXL):
    """SDXL at any size. The required key is in no checkpoint but the miniature's."""

    unet_config = {"use_linear_in_transformer": True, "use_temporal_attention": False}  # noqa: RUF012 - as ComfyUI has it
    required_keys = {HEAD_WIDTHS: None}  # noqa: RUF012

    def get_model(self, state_dict: Mapping[str, Tensor], prefix: str = "", device: Any = None) -> Any:
        """Build the U-Net with the checkpoint's head width, where SDXL has 64."""
        sizes: dict[str, Any] = self.unet_config
        sizes["num_head_channels"] = int(state_dict[HEAD_WIDTHS][0])
        self.latent_format = MiniatureLatent(sizes["in_channels"])
        return TinySDXL(self, self.model_type(state_dict, prefix), device)

    def clip_target(self, state_dict: Mapping[str, Tensor]) -> comfy.supported_models_base.ClipTarget:
        """SDXL's tokenizer, and its two text encoders at the checkpoint's sizes."""
        sizes = {"clip_l_model_config": _clip_l(state_dict), "clip_g_model_config": _clip_g(state_dict)}

        class ClipModel(comfy.sdxl_clip.SDXLClipModel):
            def __init__(
                self, device: Any = "cpu", dtype: Any = None, model_options: Mapping[str, Any] | None = None
            ) -> None:
                super().__init__(device, dtype, {**(model_options or {}), **sizes})

        return comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, ClipModel)


def register() -> None:
    """Add the tiny SDXL to the configurations ComfyUI tries for a checkpoint, unless it is there."""
    if MiniatureSDXL not in comfy.supported_models.models:
        comfy.supported_models.models.append(MiniatureSDXL)


def _clip_l(state_dict: Mapping[str, Tensor]) -> dict[str, int]:
    inner = state_dict[CLIP_L + "encoder.layers.0.mlp.fc1.weight"].shape[0]
    width = state_dict[CLIP_L + "embeddings.token_embedding.weight"].shape[1]
    layers = sum(name.startswith(CLIP_L) and name.endswith(".mlp.fc1.weight") for name in state_dict)
    return _sizes(width, inner, layers, int(state_dict[HEAD_WIDTHS][1]), width)


def _clip_g(state_dict: Mapping[str, Tensor]) -> dict[str, int]:
    inner = state_dict[CLIP_G + "transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    width, projection = state_dict[CLIP_G + "text_projection"].shape
    layers = sum(name.startswith(CLIP_G) and name.endswith(".mlp.c_fc.weight") for name in state_dict)
    return _sizes(width, inner, layers, int(state_dict[HEAD_WIDTHS][2]), projection)


def _sizes(width: int, inner: int, layers: int, head_width: int, projection: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": width // head_width,
        "projection_dim": projection,
    }
