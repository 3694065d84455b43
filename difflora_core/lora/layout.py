"""The layout of a LoRA: which linear layers of a base model it changes, in what order, and at what rank.

A layout turns a LoRA into one flat vector and back. Per module the vector holds the down factor (rank, in) and then
the up factor (out, rank), both row-major; modules follow one another along the signal. Which layers are targets, and
how they are called, is the base model's part (`base_model`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..fields import shorten
from .base_model import SDXL, BaseModelModules, base_model

Factors = tuple[Tensor, Tensor]
"""down (..., rank, in), up (..., out, rank)."""


@dataclass(frozen=True)
class LoRAModule:
    """One target layer."""

    name: str
    """Its name in diffusers, `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`."""
    in_features: int
    """Width of its input."""
    out_features: int
    """Width of its output."""

    def __post_init__(self) -> None:
        widths = (self.in_features, self.out_features)
        if not isinstance(self.name, str) or not all(type(width) is int and width > 0 for width in widths):
            found = shorten([self.name, *widths])
            raise ValueError(f"A LoRA layout's module is a name and two widths of at least 1, found {found}.")

    def __str__(self) -> str:
        return f"{self.name} ({self.in_features} → {self.out_features})"


@dataclass(frozen=True)
class LoRALayout:
    """The ordered target modules and their common rank. LoRAs of equal layouts are interchangeable."""

    modules: tuple[LoRAModule, ...]
    """The target layers, in the order of the flat vector."""
    rank: int
    """Rank of every module's factors."""
    base_model: str = SDXL.name
    """Name of the base model, one of `base_model.BASE_MODELS`."""

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"A LoRA's rank is an integer of at least 1, found {shorten(self.rank)}.")
        if not self.modules:
            raise ValueError("A LoRA layout needs at least one target module, found none.")
        if len(set(self.names)) != len(self.modules):
            raise ValueError("A LoRA layout names each module once, found a name twice.")
        base_model(self.base_model)

    @classmethod
    def from_network(
        cls, network: nn.Module, rank: int, feed_forward: bool = False, base: BaseModelModules | None = None
    ) -> Self:
        """List the targets in a base model's network.

        Args:
            network: Diffusers' network, for SDXL the U-Net; its weights are not needed.
            rank: Rank of every module's factors.
            feed_forward: Whether feed-forward layers are targets, too.
            base: The base model; SDXL if not given.
        """
        base = base or SDXL()
        modules = [
            LoRAModule(name, layer.in_features, layer.out_features)
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear) and base.is_target(name, feed_forward)
        ]
        modules.sort(key=lambda module: base.stage(module.name))
        return cls(tuple(modules), rank, base.name)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | None,
        rank: int,
        feed_forward: bool = False,
        base: BaseModelModules | None = None,
    ) -> Self:
        """List the targets of a base model by its configuration, without weights.

        Args:
            config: Diffusers' configuration of the network; None is the published one. SDXL's has 560 attention
                projections of four shapes, 1,451,520 weights per rank.
            rank: See `from_network`.
            feed_forward: See `from_network`.
            base: See `from_network`.
        """
        base = base or SDXL()
        return cls.from_network(base.network(config), rank, feed_forward, base)

    @property
    def base(self) -> BaseModelModules:
        """The base model."""
        return base_model(self.base_model)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the modules."""
        return tuple(module.name for module in self.modules)

    @cached_property
    def factor_sizes(self) -> tuple[int, ...]:
        """Sizes of the factors in flat order: down and up of the first module, down and up of the second and so on."""
        return tuple(self.rank * size for module in self.modules for size in (module.in_features, module.out_features))

    @cached_property
    def numel(self) -> int:
        """Length of the flat vector."""
        return sum(self.factor_sizes)

    def flatten(self, factors: Mapping[str, Factors]) -> Tensor:
        """Join factors to the flat vector.

        Args:
            factors: By module name, down (..., rank, in) and up (..., out, rank).

        Returns:
            (..., numel).

        Raises:
            ValueError: A module is missing, unknown or of another shape; the first is named.
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
        """View (..., numel) as down (..., rank, in) and up (..., out, rank) by module name.

        Raises:
            ValueError: The vector has another length.
        """
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
        """Check that the last dimension of a tensor is the length of the flat vector.

        Raises:
            ValueError: It is not.
        """
        if flat.ndim == 0 or flat.shape[-1] != self.numel:
            raise ValueError(
                f"A flat LoRA of this layout has {self.numel} weights ({len(self.modules)} modules, rank {self.rank}), "
                f"found a tensor of shape {tuple(flat.shape)}."
            )

    def by_shape(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the distinct shapes (in, out) of modules.

        Lets a formula over modules run as a few batched operations: SDXL has 560 modules but only four shapes.

        Yields:
            Flat indices of the downs (modules, rank, in) and of the ups (modules, out, rank).
        """
        factors = self.unflatten(torch.arange(self.numel))
        for shape in dict.fromkeys((module.in_features, module.out_features) for module in self.modules):
            alike = [factors[m.name] for m in self.modules if (m.in_features, m.out_features) == shape]
            yield torch.stack([down for down, _ in alike]), torch.stack([up for _, up in alike])

    def difference(self, other: "LoRALayout") -> str | None:
        """Describe what first distinguishes `other` from this layout; None if nothing does."""
        if self.base_model != other.base_model:
            return f"base model {other.base_model} instead of {self.base_model}"
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
        """Describe the layout in JSON's types, for `from_dict`."""
        modules = [[m.name, m.in_features, m.out_features] for m in self.modules]
        return {"base_model": self.base_model, "rank": self.rank, "modules": modules}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; without a base model it is SDXL.

        Raises:
            KeyError: Rank or modules are missing.
            ValueError: This version does not know the base model, or the layout is impossible.
        """
        modules = tuple(LoRAModule(*module) for module in description["modules"])
        return cls(modules, description["rank"], description.get("base_model", SDXL.name))
