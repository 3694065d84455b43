"""ImageReward's network, read from its official file.

BLIP's vision transformer and a BERT that attends to it in every layer, then a head of linear layers without activations
(Xu et al., arXiv 2304.05977; BLIP: arXiv 2201.12086). The networks are transformers' BlipVisionModel and BlipTextModel;
the official package's own code does not run on transformers 5. Tensors of the file are renamed, and every one of them
has to be used, except for two projections that BLIP trains and ImageReward does not call.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from .model_files import load_strictly

REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072
"""Of the official training's rewards, by which they are standardized."""
HEAD = (1024, 128, 64, 16, 1)
"""Widths of the head's layers."""
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
RENAMED = (
    (r"^mlp\.layers\.", "head."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.", "vision."),
    (r"^vision\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^vision\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^vision\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^vision\.norm\.", "vision.post_layernorm."),
    (r"^(vision)\.blocks\.(\d+)\.norm", r"\1.encoder.layers.\2.layer_norm"),
    (r"^(vision)\.blocks\.(\d+)\.attn\.qkv\.", r"\1.encoder.layers.\2.self_attn.qkv."),
    (r"^(vision)\.blocks\.(\d+)\.attn\.proj\.", r"\1.encoder.layers.\2.self_attn.projection."),
    (r"^(vision)\.blocks\.(\d+)\.mlp\.", r"\1.encoder.layers.\2.mlp."),
)
"""The official file's names, as regular expressions that are applied one after another, and ours."""
TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
"""Entries of med_config.json that are read, all integers."""


class ImageRewardNetwork(nn.Module):
    """Images and prompts → rewards."""

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
        """Make an untrained network.

        Args:
            vision: Arguments of transformers' BlipVisionConfig.
            text: Arguments of transformers' BlipTextConfig.
        """
        super().__init__()
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        self.vision = BlipVisionModel(BlipVisionConfig(**vision, layer_norm_eps=1e-6))
        # is_decoder gives the layers their attention to the image; it is not passed in `forward`, where it would hide
        # later words from earlier ones. Special tokens are set because the defaults lie beyond small vocabularies.
        special = {"bos_token_id": None, "eos_token_id": None, "sep_token_id": None}
        config = BlipTextConfig(**text, encoder_hidden_size=vision["hidden_size"], is_decoder=True, **special)
        self.text = BlipTextModel(config, add_pooling_layer=False)
        widths = (text["hidden_size"], *HEAD)
        first, second, third, fourth, last = (nn.Linear(*pair) for pair in pairwise(widths))
        dropout = nn.Identity()  # numbered in the file's names, and idle outside training
        self.head = nn.Sequential(first, dropout, second, dropout, third, dropout, fourth, last)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], med_config: Mapping[str, Any]) -> Self:
        """Make the network that the official files describe, in float32 for inference.

        Args:
            state: Tensors of ImageReward.pt.
            med_config: Content of med_config.json.

        Raises:
            ValueError: They are other files, or don't belong together; the first difference is named.
        """
        what = "ImageReward's file"
        network = cls(vision_sizes(state), text_sizes(med_config))
        load_strictly(network, {_rename(name): tensor for name, tensor in state.items() if _is_used(name)}, what)
        return network.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute standardized rewards.

        Args:
            pixels: Normalized images (n, 3, side, side).
            input_ids: int64 (n, tokens), the prompts' tokens.
            attention_mask: int64 (n, tokens), 0 for padding.

        Returns:
            (n,).
        """
        return self.reward(self.vision(pixel_values=pixels).last_hidden_state, input_ids, attention_mask)

    def reward(self, seen: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute standardized rewards of images that have been seen; the rest as in `forward`.

        Args:
            seen: (n, 1 + patches, vision width), the last hidden states of `vision`.
            input_ids: See `forward`.
            attention_mask: See `forward`.

        Returns:
            (n,).
        """
        states = self.text(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state  # (n, tokens, text width)
        return (self.head(states[:, 0])[:, 0] - REWARD_MEAN) / REWARD_STD


def _is_used(name: str) -> bool:
    return not name.startswith(UNUSED)


def _rename(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def vision_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return arguments of BlipVisionConfig, from the shapes of an official state dict.

    Shapes do not show the number of heads: the official ones are 64 wide; networks narrower than 512 (the miniature's)
    have heads of 16.

    Raises:
        ValueError: A tensor that sizes are read from is missing.
    """
    prefix = "blip.visual_encoder."
    try:
        patches = state[f"{prefix}patch_embed.proj.weight"].shape  # (width, 3, patch, patch)
        positions = state[f"{prefix}pos_embed"].shape[1]
        hidden = state[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        found = next(iter(state), "none: it is empty")
        raise ValueError(f"ImageReward's file lacks {error.args[0]}; its first tensor is {found!r}") from error
    width, patch = int(patches[0]), int(patches[-1])
    layers = {name.split(".")[3] for name in state if name.startswith(f"{prefix}blocks.")}
    return {
        "hidden_size": width,
        "intermediate_size": int(hidden),
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // (64 if width >= 512 else 16)),
        "image_size": patch * round((positions - 1) ** 0.5),
        "patch_size": patch,
    }


def text_sizes(med_config: Mapping[str, Any]) -> dict[str, int]:
    """Return arguments of BlipTextConfig, from the content of med_config.json.

    Raises:
        ValueError: An entry is missing, or no positive integer.
    """
    for name in TEXT_SIZES:
        if not isinstance(med_config.get(name), int) or med_config[name] < 1:
            raise ValueError(f"med_config.json: {name} is {med_config.get(name)!r}, expected a positive integer")
    return {name: med_config[name] for name in TEXT_SIZES}
