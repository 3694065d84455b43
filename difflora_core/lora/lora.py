"""A LoRA that this project made: tensors that other programs take, with the layout and what made them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_tensors
from .file_formats import Format, lora_state_dict, read_lora, storable
from .layout import LoRALayout

METADATA_KEY = "difflora_lora"
"""Key of a LoRA file's metadata that says, as JSON, what made it; a checkpoint's header has another one."""


class LoRA(dict[str, Tensor]):
    """Tensors under kohya names, as ComfyUI's LORA_MODEL has them, with their layout and origin."""

    def __init__(self, flat: Tensor, layout: LoRALayout, made_by: Mapping[str, Any] | None = None) -> None:
        """Name the factors of a flat LoRA.

        Args:
            flat: (numel,).
            layout: Its layout.
            made_by: JSON-ready facts of its origin (seed, references, settings), written into its file.

        Raises:
            ValueError: The vector does not fit the layout.
        """
        super().__init__(lora_state_dict(flat, layout))
        self.layout = layout
        self.made_by: dict[str, Any] = dict(made_by or {})

    @property
    def flat(self) -> Tensor:
        """The LoRA as one vector (numel,) float32 in the layout's order."""
        return read_lora(self, self.layout)

    @property
    def metadata(self) -> dict[str, str]:
        """What its file's header holds: kohya's entries of network and rank, and what made it."""
        return kohya_metadata(self) | {METADATA_KEY: json.dumps(self.made_by)}

    def state_dict(self, format: Format = "kohya") -> dict[str, Tensor]:
        """Name the tensors as a file does: kohya's names for ComfyUI, PEFT's for diffusers."""
        return dict(self) if format == "kohya" else lora_state_dict(self.flat, self.layout, format)

    def save(self, path: str | Path, format: Format = "kohya") -> None:
        """Write a safetensors file, whole or not at all.

        Args:
            path: The file.
            format: See `file_formats.Format`.

        Raises:
            ValueError: There is no such format, or a tensor was set to values that are not finite.
            OSError: The system refuses: disk full, no permission.
        """
        write_tensors(path, storable(self.state_dict(format)), self.metadata)


def kohya_metadata(lora: Mapping[str, Tensor | float]) -> dict[str, str]:
    """Describe tensors under kohya names as kohya's trainer does; without rank or alpha where modules have several."""
    metadata = {"format": "pt", "ss_network_module": "networks.lora"}
    ending = ".lora_down.weight"
    ranks, alphas = set(), set()
    for name, factor in lora.items():
        if name.endswith(ending):
            rank = len(torch.as_tensor(factor))
            alpha = lora.get(f"{name.removesuffix(ending)}.alpha", float(rank))  # without one alpha / rank is 1
            ranks.add(rank)
            alphas.update(torch.as_tensor(alpha).flatten().tolist())
    for key, found in (("ss_network_dim", ranks), ("ss_network_alpha", alphas)):
        if len(found) == 1:
            metadata[key] = str(found.pop())
    return metadata
