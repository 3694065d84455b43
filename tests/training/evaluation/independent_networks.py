"""Transformers written down once more, in few lines and from a state dict, to check what the metrics compute."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Callable[[str], Tensor]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights(f"{name}.weight").T + weights(f"{name}.bias")


def norm(x: Tensor, weights: Weights, name: str, epsilon: float) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return scaled * weights(f"{name}.weight") + weights(f"{name}.bias")


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
    """Attention of (tokens, width) to (others, width), head after head; hidden: bool (others,)."""
    mixed = []
    for q, k, v in zip(*(x.chunk(heads, -1) for x in (query, key, value)), strict=True):
        scores = q @ k.T / q.shape[-1] ** 0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        mixed.append(scores.softmax(-1) @ v)
    return torch.cat(mixed, -1)


def patches(image: Tensor, weight: Tensor) -> Tensor:
    """Dot products of an image's patches with filters: (patches, width)."""
    side = weight.shape[-1]
    cells = image.unfold(1, side, side).unfold(2, side, side)  # (3, rows, columns, side, side)
    return torch.einsum("crspq,wcpq->rsw", cells, weight).flatten(0, 1)


def timm_vit(image: Tensor, weights: Weights, layers: int, heads: int) -> Tensor:
    """BLIP's vision transformer under timm's names: (3, side, side) → (1 + patches, width)."""
    x = patches(image, weights("patch_embed.proj.weight")) + weights("patch_embed.proj.bias")
    x = torch.cat([weights("cls_token")[0], x]) + weights("pos_embed")[0]
    for n in range(layers):
        q, k, v = linear(norm(x, weights, f"blocks.{n}.norm1", 1e-6), weights, f"blocks.{n}.attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, v, heads), weights, f"blocks.{n}.attn.proj")
        inner = F.gelu(linear(norm(x, weights, f"blocks.{n}.norm2", 1e-6), weights, f"blocks.{n}.mlp.fc1"))
        x = x + linear(inner, weights, f"blocks.{n}.mlp.fc2")
    return norm(x, weights, "norm", 1e-6)


def hub_vit(image: Tensor, weights: Weights, layers: int, heads: int) -> Tensor:
    """DINO's vision transformer under the names of the hub's file: (3, side, side) → (1 + patches, width)."""
    x = patches(image, weights("embeddings.patch_embeddings.projection.weight"))
    x = x + weights("embeddings.patch_embeddings.projection.bias")
    x = torch.cat([weights("embeddings.cls_token")[0], x]) + weights("embeddings.position_embeddings")[0]
    for n in range(layers):
        layer = f"encoder.layer.{n}"
        y = norm(x, weights, f"{layer}.layernorm_before", 1e-12)
        parts = [linear(y, weights, f"{layer}.attention.attention.{part}") for part in ("query", "key", "value")]
        x = x + linear(attend(*parts, heads), weights, f"{layer}.attention.output.dense")
        inner = linear(norm(x, weights, f"{layer}.layernorm_after", 1e-12), weights, f"{layer}.intermediate.dense")
        x = x + linear(F.gelu(inner), weights, f"{layer}.output.dense")
    return norm(x, weights, "layernorm", 1e-12)


def bert(ids: Tensor, mask: Tensor, seen: Tensor, weights: Weights, layers: int, heads: int) -> Tensor:
    """BERT with attention to `seen` in every layer: ids and mask (tokens,) → (tokens, width)."""
    x = weights("embeddings.word_embeddings.weight")[ids]
    x = x + weights("embeddings.position_embeddings.weight")[: len(ids)]
    x = norm(x, weights, "embeddings.LayerNorm", 1e-12)
    for n in range(layers):
        layer = f"encoder.layer.{n}"
        for attention, other, hidden in (("attention", None, mask == 0), ("crossattention", seen, None)):
            name = f"{layer}.{attention}"
            q = linear(x, weights, f"{name}.self.query")
            k, v = (linear(x if other is None else other, weights, f"{name}.self.{part}") for part in ("key", "value"))
            y = linear(attend(q, k, v, heads, hidden), weights, f"{name}.output.dense")
            x = norm(x + y, weights, f"{name}.output.LayerNorm", 1e-12)
        inner = F.gelu(linear(x, weights, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, weights, f"{layer}.output.dense"), weights, f"{layer}.output.LayerNorm", 1e-12)
    return x
