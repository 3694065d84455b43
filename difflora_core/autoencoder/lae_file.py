"""An autoencoder alone in one safetensors file: weights, statistics, layout and configuration.

lae = load_lae("lae.safetensors")
latents = lae.encode(flat)
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from ..files import read_tensors, write_tensors
from ..lora.layout import LoRALayout
from .model import LAE, LAEConfig

FORMAT = 1
HEADER = "difflora_lae"


def save_lae(
    path: str | Path, lae: LAE, provenance: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write one file: weights in `dtype`, statistics in float32, everything else in its header.

    provenance: JSON-ready facts of the training (people, steps, date).
    """
    header = {
        "format": FORMAT,
        "layout": lae.layout.to_dict(),
        "config": asdict(lae.config),
        "provenance": dict(provenance or {}),
    }
    exact = dict(lae.named_buffers())
    tensors = {
        name: (tensor.float() if name in exact else tensor.to(dtype)).cpu().contiguous()
        for name, tensor in lae.state_dict().items()
    }
    write_tensors(path, tensors, {HEADER: json.dumps(header), "format": "pt"})


def load_lae(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: LoRALayout | None = None,
    config: LAEConfig | None = None,
) -> LAE:
    """Read what `save_lae` wrote, frozen. layout, config: what the file is expected to have; None takes what it has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, was written by a newer version, or has another layout or configuration.
    """
    tensors, metadata = read_tensors(path)
    if HEADER not in metadata:
        raise ValueError(f"{path} is no autoencoder: it has no {HEADER!r} header. `train-lae` writes such files.")
    header = json.loads(metadata[HEADER])
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} has autoencoder format {header['format']}, this version reads up to {FORMAT}: update DiffLoRA."
        )
    if unknown := header["config"].keys() - {field.name for field in fields(LAEConfig)}:
        raise ValueError(f"{path} has the setting {min(unknown)!r}, which this version doesn't know: update DiffLoRA.")
    found_layout, found = LoRALayout.from_dict(header["layout"]), LAEConfig(**header["config"])
    if layout is not None and (difference := layout.difference(found_layout)) is not None:
        raise ValueError(f"{path} was trained for another layout: {difference}.")
    if config is not None:
        for name, expected in asdict(config).items():
            if (own := asdict(found)[name]) != expected:
                raise ValueError(f"{path} has {name} {own!r}, expected {expected!r}.")
    lae = LAE(found_layout, found)
    lae.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return lae.eval().requires_grad_(False).to(device=device, dtype=dtype)
