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
from ..files import open_tensors, write_tensors
from ..lora.layout import LoRALayout
from ..network_files import cast_weights, exact_state, load_network, read_header, read_part
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
    with open_tensors(path) as file:
        found_layout, found, _ = read_lae_header(path, file.metadata() or {})
        _check(path, found_layout, found, layout, config)
        statistics = {"mean": (found_layout.numel,)}
        lae = load_network(path, file, lambda: LAE(found_layout, found), statistics, [found.blocks])
    return cast_weights(lae.eval().requires_grad_(False), device, dtype)


def read_lae_header(path: str | Path, metadata: Mapping[str, str]) -> tuple[LoRALayout, LAEConfig, Mapping[str, Any]]:
    """Read layout, configuration and provenance from a file's metadata.

    Raises:
        ValueError: It is something else, or was written by a newer version.
    """
    if HEADER not in metadata:
        raise ValueError(f"{path} is no autoencoder: it has no {HEADER!r} header. `train-lae` writes such files.")
    header = read_header(path, metadata[HEADER], "autoencoder", FORMAT)
    layout, config = read_part(
        path, lambda: (LoRALayout.from_dict(header["layout"]), read_fields(LAEConfig, header["config"], "lae"))
    )
    provenance = header.get("provenance")
    return layout, config, provenance if isinstance(provenance, Mapping) else {}


def _check(
    path: str | Path,
    found_layout: LoRALayout,
    found: LAEConfig,
    layout: LoRALayout | None,
    config: LAEConfig | None,
) -> None:
    if layout is not None and (difference := layout.difference(found_layout)) is not None:
        raise ValueError(f"{path} was trained for another layout: {difference}.")
    if config is not None:
        for name, expected in asdict(config).items():
            if (own := asdict(found)[name]) != expected:
                raise ValueError(f"{path} has {name} {own!r}, expected {expected!r}.")
