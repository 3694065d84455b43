"""An autoencoder alone in one safetensors file: weights, statistics, layout and configuration.

lae = load_lae("lae.safetensors")
latents = lae.encode(flat)
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..fields import read_fields
from ..files import read_tensors, write_tensors
from ..lora.layout import LoRALayout
from ..precision import cast_weights, exact_state
from .config import LAEConfig
from .model import LAE

FORMAT = 1
"""Version of the file format; older versions read none that is newer."""
HEADER = "difflora_lae"
"""Key of the file's metadata that has layout, configuration and provenance."""


def save_lae(
    path: str | Path, lae: LAE, provenance: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write one file: weights in `dtype`, statistics in float32, everything else in its header.

    Args:
        path: The file.
        lae: The autoencoder.
        provenance: Figures of the training (people, steps, date), ready for JSON.
        dtype: Of the weights.
    """
    header = {
        "format": FORMAT,
        "layout": lae.layout.to_dict(),
        "config": asdict(lae.config),
        "provenance": dict(provenance or {}),
    }
    write_tensors(path, exact_state(lae, dtype), {HEADER: json.dumps(header), "format": "pt"})


def load_lae(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: LoRALayout | None = None,
    config: LAEConfig | None = None,
) -> LAE:
    """Read what `save_lae` wrote, frozen.

    Args:
        path: The file.
        device: Where the autoencoder runs.
        dtype: Of the weights; statistics stay in float32.
        layout: What the file is expected to have; None takes what it has.
        config: As `layout`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, was written by a newer version, or has another layout or configuration.
    """
    tensors, metadata = read_tensors(path)
    if HEADER not in metadata:
        raise ValueError(f"{path} is no autoencoder: it has no {HEADER!r} header. `train-lae` writes such files.")
    header = json.loads(metadata[HEADER])
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} has autoencoder format {header['format']}, this version reads up to {FORMAT}: update DiffLoRA."
        )
    try:
        found_layout = LoRALayout.from_dict(header["layout"])
        found: LAEConfig = read_fields(LAEConfig, header["config"], "lae")
    except ValueError as error:
        raise ValueError(f"{path} has a header that cannot be read: {error}") from error
    if layout is not None and (difference := layout.difference(found_layout)) is not None:
        raise ValueError(f"{path} was trained for another layout: {difference}.")
    if config is not None:
        for name, expected in asdict(config).items():
            if (own := asdict(found)[name]) != expected:
                raise ValueError(f"{path} has {name} {own!r}, expected {expected!r}.")
    lae = LAE(found_layout, found)
    lae.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return cast_weights(lae.eval().requires_grad_(False), device, dtype)
