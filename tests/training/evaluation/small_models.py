"""Models of random weights in the layouts of the public files, and images."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE, PATCH = 32, 16
WORDS = ("a", "photo", "of", "person", "##s", "hat", ",", "in", "red")
PROMPTS = ("a photo of a person", "a person, in a red hat", "photo")


def noise(count: int, height: int = 48, width: int = 40, seed: int = 0) -> list[np.ndarray]:
    """Images whose values no resizing leaves alone."""
    rng = np.random.default_rng([seed, height, width])
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def write_clip(folder: Path, seed: int = 0) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from miniature.comfyui.host import find_tokenizer

    torch.manual_seed(seed)
    vision = SIZES | {"image_size": SIDE, "patch_size": PATCH}
    CLIPModel(CLIPConfig(text_config=SIZES, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(find_tokenizer()).save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square).save_pretrained(folder)
    return folder


def write_dino(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(1)
    config = ViTConfig(**SIZES, image_size=SIDE, patch_size=PATCH)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def image_reward_state(layers: int = 2, width: int = 32, text_width: int = 24, tokens: int = 40) -> dict[str, Tensor]:
    """Random tensors under all names of ImageReward.pt, with the official head and smaller networks before it."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, before: int, after: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (after, before), (after,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (size,), (size,)

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    shapes[f"{vision}.cls_token"] = (1, 1, width)
    shapes[f"{vision}.pos_embed"] = (1, 1 + (SIDE // PATCH) ** 2, width)
    shapes[f"{vision}.patch_embed.proj.weight"] = (width, 3, PATCH, PATCH)
    shapes[f"{vision}.patch_embed.proj.bias"] = (width,)
    norm(f"{vision}.norm", width)
    for n in range(layers):
        block, layer = f"{vision}.blocks.{n}", f"{text}.encoder.layer.{n}"
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", width, 3 * width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.fc1", width, 2 * width)
        linear(f"{block}.mlp.fc2", 2 * width, width)
        for attention, seen in (("attention", text_width), ("crossattention", width)):
            linear(f"{layer}.{attention}.self.query", text_width, text_width)
            linear(f"{layer}.{attention}.self.key", seen, text_width)
            linear(f"{layer}.{attention}.self.value", seen, text_width)
            linear(f"{layer}.{attention}.output.dense", text_width, text_width)
            norm(f"{layer}.{attention}.output.LayerNorm", text_width)
        linear(f"{layer}.intermediate.dense", text_width, 2 * text_width)
        linear(f"{layer}.output.dense", 2 * text_width, text_width)
        norm(f"{layer}.output.LayerNorm", text_width)
    shapes[f"{text}.embeddings.word_embeddings.weight"] = (len(WORDS) + 7, text_width)
    shapes[f"{text}.embeddings.position_embeddings.weight"] = (tokens, text_width)
    norm(f"{text}.embeddings.LayerNorm", text_width)
    linear("blip.vision_proj", width, 16)
    linear("blip.text_proj", text_width, 16)
    head = (text_width, 1024, 128, 64, 16, 1)
    for number, (before, after) in zip((0, 2, 4, 6, 7), pairwise(head), strict=True):
        linear(f"mlp.layers.{number}", before, after)
    generator = torch.Generator().manual_seed(2)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        state[f"{vision}.{name}"] *= 1e-3  # so small that the layer norms' epsilon shows
    return state | {f"{text}.embeddings.position_ids": torch.arange(tokens)[None]}


def write_image_reward(folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    config = {
        "architectures": ["BertModel"],
        "vocab_size": len(WORDS) + 7,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 40,
        "add_cross_attention": True,
        "layer_norm_eps": 1e-12,
    }
    folder.mkdir(exist_ok=True)
    (folder / "med_config.json").write_text(json.dumps(config))
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.save(image_reward_state() if state is None else state, folder / "ImageReward.pt")
    return folder


class HostilePickle:
    """Makes a folder when a pickle that holds it is read with its code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)
