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
from ..network_files import exact_state, load_network, read_header, read_part
from .config import LAEConfig
from .model import LAE

FORMAT = 1
"""Version of the file format; older versions read none that is newer."""
HEADER = "difflora_lae"
"""Key of the file's metadata that has layout, configuration and provenance."""


def save_lae(path: str | Path, lae: LAE, provenance: Mapping[str, Any] | None = None) -> None:
    """Write one file: weights and statistics in float32, everything else in its header.

    Args:
        path: The file.
        lae: The autoencoder.
        provenance: Figures of the training (people, steps, date), ready for JSON.
    """
    header = {
        "format": FORMAT,
        "layout": lae.layout.to_dict(),
        "config": asdict(lae.config),
        "provenance": dict(provenance or {}),
    }
    write_tensors(path, exact_state(lae, torch.float32), {HEADER: json.dumps(header), "format": "pt"})


def load_lae(path: str | Path) -> LAE:
    """Read what `save_lae` wrote: frozen, on the CPU, in float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, was written by a newer version, or is damaged.
    """
    with open_tensors(path) as file:
        layout, config, _ = read_lae_header(path, file.metadata() or {})
        statistics = {"mean": (layout.numel,)}
        lae = load_network(path, file, lambda: LAE(layout, config), statistics, [config.blocks])
    return lae.eval().requires_grad_(False)


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
