"""The layout of a LoRA: which linear layers of a U-Net it changes, in what order, and at what rank.

A layout turns a LoRA into one flat vector and back. Per module the vector holds the down factor ``(rank, in)`` and
then the up factor ``(out, rank)``, both row-major; modules follow one another in the order down blocks, middle block,
up blocks. The paper does not say which layers its LoRAs target: attention projections, with the feed-forward layers as
an option, are our choice.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

ATTENTION = re.compile(r"\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)$")
FEED_FORWARD = re.compile(r"\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)$")
STAGES = ("down_blocks", "mid_block", "up_blocks")

Factors = tuple[Tensor, Tensor]  # down (..., rank, in), up (..., out, rank)

SDXL_UNET: dict[str, Any] = {
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
"""What decides which layers SDXL's U-Net has, as its published configuration says."""


@dataclass(frozen=True)
class LoRAModule:
    """One target layer by its diffusers name, ``down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q``."""

    name: str
    in_features: int
    out_features: int

    def __str__(self) -> str:
        return f"{self.name} ({self.in_features} → {self.out_features})"


@dataclass(frozen=True)
class LoRALayout:
    """The ordered target modules and their common rank. Equal layouts hold interchangeable LoRAs."""

    modules: tuple[LoRAModule, ...]
    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"A LoRA's rank is at least 1, found {self.rank}.")
        if not self.modules:
            raise ValueError("A LoRA layout needs at least one target module, found none.")
        if len(set(self.names)) != len(self.modules):
            raise ValueError("A LoRA layout names each module once, found a name twice.")

    @classmethod
    def from_unet(cls, unet: nn.Module, rank: int, feed_forward: bool = False) -> Self:
        """The attention projections of a diffusers U-Net, and its feed-forward layers if asked for."""
        targets = [ATTENTION, FEED_FORWARD] if feed_forward else [ATTENTION]
        modules = [
            LoRAModule(name, layer.in_features, layer.out_features)
            for name, layer in unet.named_modules()
            if isinstance(layer, nn.Linear) and any(target.search(name) for target in targets)
        ]
        # diffusers registers the up blocks before the middle block; we follow the signal
        modules.sort(key=lambda module: STAGES.index(module.name.split(".")[0]))
        return cls(tuple(modules), rank)

    @classmethod
    def from_unet_config(cls, config: Mapping[str, Any], rank: int, feed_forward: bool = False) -> Self:
        """The layout for a ``diffusers.UNet2DConditionModel`` configuration, built without weights (meta device)."""
        from diffusers import UNet2DConditionModel  # costs seconds, and only this function needs it

        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(dict(config))
        return cls.from_unet(unet, rank, feed_forward)

    @classmethod
    def sdxl(cls, rank: int, feed_forward: bool = False) -> Self:
        """SDXL's layout: 560 attention projections of four shapes, 1,451,520 numbers per rank."""
        return cls.from_unet_config(SDXL_UNET, rank, feed_forward)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(module.name for module in self.modules)

    @cached_property
    def factor_sizes(self) -> tuple[int, ...]:
        """Numbers in each factor, in flat order: down and up of the first module, down and up of the second, …"""
        return tuple(self.rank * size for module in self.modules for size in (module.in_features, module.out_features))

    @cached_property
    def numel(self) -> int:
        return sum(self.factor_sizes)

    def flatten(self, factors: Mapping[str, Factors]) -> Tensor:
        """Factors by module name, ``down (..., rank, in)`` and ``up (..., out, rank)``, to ``(..., numel)``.

        Raises ValueError naming the first module that is missing, unknown or of another shape.
        """
        unknown = [name for name in factors if name not in self.names]
        missing = [name for name in self.names if name not in factors]
        if unknown or missing:
            word, names = ("unknown", unknown) if unknown else ("missing", missing)
            raise ValueError(
                f"{len(names)} modules are {word} in the LoRA layout of {len(self.modules)}, first {names[0]}."
            )
        parts = []
        for module in self.modules:
            expected = ((self.rank, module.in_features), (module.out_features, self.rank))
            for kind, factor, shape in zip(("down", "up"), factors[module.name], expected, strict=True):
                if tuple(factor.shape[-2:]) != shape:
                    raise ValueError(f"{kind} of {module.name} has shape {tuple(factor.shape[-2:])}, expected {shape}.")
                parts.append(factor.flatten(-2))
        return torch.cat(parts, dim=-1)

    def unflatten(self, flat: Tensor) -> dict[str, Factors]:
        """``(..., numel)`` to views ``down (..., rank, in)``, ``up (..., out, rank)`` by module name."""
        self.check(flat)
        parts = iter(flat.split(self.factor_sizes, dim=-1))
        return {
            module.name: (
                next(parts).unflatten(-1, (self.rank, module.in_features)),
                next(parts).unflatten(-1, (module.out_features, self.rank)),
            )
            for module in self.modules
        }

    def check(self, flat: Tensor) -> None:
        """Raise ValueError unless the last dimension of ``flat`` is this layout's number count."""
        if flat.ndim == 0 or flat.shape[-1] != self.numel:
            raise ValueError(
                f"A flat LoRA of this layout has {self.numel} numbers ({len(self.modules)} modules, rank {self.rank}), "
                f"found a tensor of shape {tuple(flat.shape)}."
            )

    def by_shape(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Per distinct (in, out): flat indices of the downs ``(modules, rank, in)`` and ups ``(modules, out, rank)``.

        Lets a formula over modules run as a few batched operations (SDXL has 560 modules but only four shapes).
        """
        factors = self.unflatten(torch.arange(self.numel))
        for shape in dict.fromkeys((module.in_features, module.out_features) for module in self.modules):
            alike = [factors[m.name] for m in self.modules if (m.in_features, m.out_features) == shape]
            yield torch.stack([down for down, _ in alike]), torch.stack([up for _, up in alike])

    def difference(self, other: "LoRALayout") -> str | None:
        """What first distinguishes ``other`` from this layout, in words; None if nothing does."""
        if self.rank != other.rank:
            return f"rank {other.rank} instead of {self.rank}"
        for position, (own, found) in enumerate(zip(self.modules, other.modules, strict=False)):
            if own != found:
                return f"module {position} is {found} instead of {own}"
        own_count, found_count = len(self.modules), len(other.modules)
        if found_count < own_count:
            return f"{found_count} modules instead of {own_count}, first missing {self.modules[found_count]}"
        if found_count > own_count:
            return f"{found_count} modules instead of {own_count}, first extra {other.modules[own_count]}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; :meth:`from_dict` reads it."""
        return {"rank": self.rank, "modules": [[m.name, m.in_features, m.out_features] for m in self.modules]}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(tuple(LoRAModule(*module) for module in description["modules"]), int(description["rank"]))
