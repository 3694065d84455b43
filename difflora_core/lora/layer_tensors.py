"""The tensors that a LoRA file holds of one layer, and what up · down is multiplied by in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .base_model import BaseModelModules
from .layout import Factors
from .peft_config import CONFIG_FILE, RAW_PREFIX, PEFTConfig, read_configs
from .tensor_names import Role

FACTORS: tuple[Role, Role] = ("down", "up")


@dataclass
class Layer:
    """One layer's tensors."""

    name: str
    """As the file has it."""
    tensors: dict[Role, Tensor] = field(default_factory=dict)
    """Of a layer of the layout: down, up and alpha."""
    keys: dict[Role, str] = field(default_factory=dict)
    """Their names."""

    def add(self, key: str, role: Role, tensor: Tensor | float) -> None:
        """Add a tensor; an alpha may be a plain number.

        Raises:
            ValueError: There is one of this role, or the values are not real numbers.
        """
        if role in self.tensors:
            raise ValueError(f"The LoRA holds {self.name} twice, as {self.keys[role]} and as {key}.")
        tensor = torch.as_tensor(tensor)
        if tensor.is_complex() or (role != "alpha" and not tensor.is_floating_point()):
            raise ValueError(
                f"{key} has values of type {str(tensor.dtype).removeprefix('torch.')}, expected real numbers."
            )
        self.tensors[role], self.keys[role] = tensor, key


def pair(layer: Layer, title: str) -> Factors:
    """Return a layer's down and up factor, float32; those of 1 × 1 convolutions as matrices.

    Raises:
        ValueError: One is missing.
    """
    for role, other in (("down", "an up"), ("up", "a down")):
        if role not in layer.tensors:
            only = "only an alpha" if layer.tensors.keys() == {"alpha"} else f"{other} factor but no {role} factor"
            raise ValueError(f"The LoRA has {only} for {title}; the file is damaged.")
    down, up = (layer.tensors[role].float() for role in FACTORS)
    return _matrix(down), _matrix(up)


def _matrix(factor: Tensor) -> Tensor:
    return factor.flatten(1) if factor.ndim > 2 and set(factor.shape[2:]) == {1} else factor


class LayerScale:
    """What up · down is multiplied by, layer by layer."""

    def __init__(self, base: BaseModelModules, path: Path | None, metadata: Mapping[str, str]) -> None:
        """Find PEFT's configurations.

        Args:
            base: Whose layers they are.
            path: Of the file; None for tensors without one.
            metadata: Of the file.
        """
        self.configs = read_configs(path, metadata, (base.peft_name(""), ""))
        self.place = "" if path is None else f" into {path.parent}"

    def __call__(self, layer: Layer, rank: int) -> Tensor:
        """Return a layer's scale, a float32 tensor without dimensions: 1 where nothing says something else.

        Raises:
            ValueError: It is given in two ways that differ, or PEFT's configuration is needed and missing.
        """
        config, name = self._config(layer)
        from_config = None if config is None else torch.tensor(config.scale(name, rank))
        if "alpha" not in layer.tensors:
            if config is None and layer.name.startswith(RAW_PREFIX):
                raise ValueError(
                    f"The LoRA has PEFT's names ({layer.name}), and PEFT keeps alpha in {CONFIG_FILE}: "
                    f"copy that file{self.place}, too."
                )
            return torch.tensor(1.0) if from_config is None else from_config
        alpha = layer.tensors["alpha"]
        if alpha.numel() != 1:
            raise ValueError(f"{layer.keys['alpha']} is one number, found a tensor of shape {tuple(alpha.shape)}.")
        scale = alpha.float().reshape(()) / rank
        if config is not None and not torch.isclose(scale, torch.tensor(config.scale(name, rank))):
            raise ValueError(
                f"The LoRA has the scale {float(scale):g} in {layer.name} by its alpha, and "
                f"{config.scale(name, rank):g} by {config.source}."
            )
        return scale

    def _config(self, layer: Layer) -> tuple[PEFTConfig | None, str]:
        """Return PEFT's configuration of a layer and the layer's name in there; only PEFT's factors have one."""
        if "lora_A" in layer.keys.get("down", ""):
            for prefix in sorted({*self.configs, RAW_PREFIX}, key=len, reverse=True):
                if layer.name.startswith(prefix):
                    return self.configs.get(prefix), layer.name.removeprefix(prefix)
        return None, layer.name
