"""SDXL's single-file checkpoint layout: diffusers and transformers modules in, one safetensors file out, and back.

    first_stage_model.*              the autoencoder, TAESD's names
    conditioner.embedders.0.*        CLIP-L, transformers' names
    conditioner.embedders.1.model.*  CLIP-G, open_clip's names (q, k, v in one matrix)
    model.diffusion_model.*          the U-Net, block by block in order of execution
    v_pred, ztsnr                    empty tensors: v-prediction with zero terminal signal-to-noise ratio
    miniature.head_widths            widths of one attention head in U-Net, CLIP-L, CLIP-G, which no shape shows

The file's metadata holds the three configurations, so that `load_single_file` needs nothing else.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from difflora_core.files import write_tensors

from .single_file_names import from_open_clip, to_open_clip, unet_names

UNET = "model.diffusion_model."
CLIP_L = "conditioner.embedders.0.transformer.text_model."
CLIP_G = "conditioner.embedders.1.model."
VAE = "first_stage_model."
HEAD_WIDTHS = "miniature.head_widths"
FLAGS = ("v_pred", "ztsnr")
LATENT_SCALE = 0.13025
"""Factor between the autoencoder's latents and the U-Net's, SDXL's value."""
TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "projection_dim",
    "vocab_size",
    "max_position_embeddings",
    "layer_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


@dataclass(frozen=True)
class SingleFile:
    """The parts of a single-file checkpoint, in evaluation mode, without gradients."""

    unet: UNet2DConditionModel
    """The U-Net."""
    text_encoder: CLIPTextModel
    """CLIP-L."""
    text_encoder_2: CLIPTextModelWithProjection
    """CLIP-G."""
    taesd: dict[str, Tensor]
    """`taesd_encoder.*`, `taesd_decoder.*`, `vae_scale`, `vae_shift`."""


def save_single_file(
    path: str | Path,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
    taesd_state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one checkpoint that ComfyUI's CheckpointLoaderSimple reads (with the miniature's companion folder).

    Args:
        path: The file, usually `….safetensors`.
        unet: SDXL-shaped: text_time additions, linear projections, heads of one width.
        text_encoder: CLIP-L, activation quick_gelu.
        text_encoder_2: CLIP-G with projection, activation gelu.
        taesd_state: Names as ComfyUI's TAESD has them, `taesd_encoder.N…` and `taesd_decoder.N…`; `vae_scale` and
            `vae_shift` may be left out (0.13025 and 0).
        dtype: Of the stored weights.

    Raises:
        ValueError: SDXL's layout cannot hold a network; the message says which and why.
    """
    _check_text_encoders(text_encoder.config, text_encoder_2.config)
    widths = [unet_head_width(unet.config), *map(_text_head_width, (text_encoder.config, text_encoder_2.config))]
    names = unet_names(unet.config, unet.state_dict())
    tensors = {UNET + names[name]: tensor for name, tensor in unet.state_dict().items()}
    state, config = _at_least_three_layers(text_encoder)
    state_2, config_2 = _at_least_three_layers(text_encoder_2)
    tensors |= {CLIP_L + name: tensor for name, tensor in state.items()}
    tensors |= {CLIP_G + name: tensor for name, tensor in to_open_clip(state_2).items()}
    tensors |= {VAE + name: tensor for name, tensor in taesd_state.items()}
    stored = {name: tensor.detach().to("cpu", dtype).contiguous().clone() for name, tensor in tensors.items()}
    # The scales stay fp32: half precision would round 0.13025 by 3e-4.
    stored[VAE + "vae_scale"] = torch.as_tensor(taesd_state.get("vae_scale", LATENT_SCALE), dtype=torch.float32).clone()
    stored[VAE + "vae_shift"] = torch.as_tensor(taesd_state.get("vae_shift", 0.0), dtype=torch.float32).clone()
    stored |= {flag: torch.zeros(0) for flag in FLAGS}
    stored[HEAD_WIDTHS] = torch.tensor(widths)
    configs = {
        "unet": {key: value for key, value in unet.config.items() if not key.startswith("_")},
        "text_encoder": config,
        "text_encoder_2": config_2,
    }
    write_tensors(path, stored, {name: json.dumps(config) for name, config in configs.items()})


def load_single_file(path: str | Path) -> SingleFile:
    """Read a checkpoint of `save_single_file` back into diffusers and transformers modules, in float32.

    Raises:
        ValueError: The file's metadata does not hold the three configurations.
        RuntimeError: A tensor is missing, left over, or of another shape (torch's own message names it).
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # Floating tensors alone: the head widths are for ComfyUI, the configurations say the same.
        tensors = {name: file.get_tensor(name).float() for name in file.keys() if name != HEAD_WIDTHS}  # noqa: SIM118
    missing = {"unet", "text_encoder", "text_encoder_2"} - metadata.keys()
    if missing:
        raise ValueError(
            f"{path}: no configuration of {sorted(missing)} in the file; it was not written by save_single_file"
        )

    unet = UNet2DConditionModel.from_config(json.loads(metadata["unet"]))
    names = unet_names(unet.config, unet.state_dict())
    stored = _with_prefix(tensors, UNET)
    _assign(unet, {name: stored.pop(names[name]) for name in names if names[name] in stored} | stored)

    text_encoder = CLIPTextModel(CLIPTextConfig(**json.loads(metadata["text_encoder"])))
    _load_text_state(text_encoder, _with_prefix(tensors, CLIP_L))
    text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**json.loads(metadata["text_encoder_2"])))
    _load_text_state(text_encoder_2, from_open_clip(_with_prefix(tensors, CLIP_G)))
    return SingleFile(unet.eval(), text_encoder.eval(), text_encoder_2.eval(), _with_prefix(tensors, VAE))


def unet_head_width(config: Mapping[str, Any]) -> int:
    """Width of one attention head; diffusers' `attention_head_dim` is, against its name, the number of heads.

    Raises:
        ValueError: Heads of different levels differ in width, which ComfyUI's SDXL cannot express.
    """
    channels, heads = config["block_out_channels"], config["attention_head_dim"]
    heads = [heads] * len(channels) if isinstance(heads, int) else heads
    widths = {width // number for width, number in zip(channels, heads, strict=True)}
    if len(widths) > 1:
        raise ValueError(f"heads of {sorted(widths)} channels (attention_head_dim {heads}); all must be of one width")
    return widths.pop()


def _check_text_encoders(config: CLIPTextConfig, config_2: CLIPTextConfig) -> None:
    for part, found, expected in (("CLIP-L", config, "quick_gelu"), ("CLIP-G", config_2, "gelu")):
        if found.hidden_act != expected:
            raise ValueError(f"{part}: activation {found.hidden_act!r}, but SDXL's {part} has {expected!r}")


def _text_head_width(config: CLIPTextConfig) -> int:
    return config.hidden_size // config.num_attention_heads


def _at_least_three_layers(model: torch.nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and configuration of a text encoder; up to three layers, identity layers are put in front.

    ComfyUI takes the penultimate hidden state only of encoders with more than two layers. Counted from the end, a
    layer in front moves neither that state nor the last one.
    """
    config = {field: getattr(model.config, field) for field in TEXT_FIELDS}
    state = text_state(model)
    while config["num_hidden_layers"] < 3:
        layers = {name: re.fullmatch(r"(encoder\.layers\.)(\d+)(\..+)", name) for name in state}
        moved = {f"{m[1]}{int(m[2]) + 1}{m[3]}" if m else name: state[name] for name, m in layers.items()}
        first = {name: tensor.clone() for name, tensor in state.items() if name.startswith("encoder.layers.0.")}
        for name, tensor in first.items():
            if "self_attn.out_proj" in name or "mlp.fc2" in name:
                tensor.zero_()  # so that neither branch adds anything to the residual stream
        state = moved | first
        config["num_hidden_layers"] += 1
    return state, config


def text_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """State of a CLIP text model without `text_model.`, which only some versions of transformers put before it."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    state.pop("embeddings.position_ids", None)
    return state


def _load_text_state(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {name.removeprefix("text_model."): name for name in model.state_dict()}
    _assign(model, {own.get(name, name): tensor for name, tensor in state.items()})


def _assign(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the tensors themselves in place, whatever dtype the network was made with."""
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
