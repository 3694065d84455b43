"""Checkpoint files: one safetensors file with all weights, and everything else as JSON in its header."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from .config import DiffLoRAConfig
from .files import open_tensors, write_tensors
from .lora.layout import LoRALayout
from .lora.lora import METADATA_KEY
from .network_files import exact_state, read_header, read_part

FORMAT = 1
"""Version of the file format; older versions read none that is newer."""
HEADER = "difflora"
"""Key of the file's metadata that has layout and configuration."""


def read_checkpoint_header(
    path: str | Path, metadata: Mapping[str, str], names: Iterable[str]
) -> tuple[LoRALayout, DiffLoRAConfig]:
    """Read layout and configuration from a file's metadata.

    Args:
        path: The file, for errors.
        metadata: The file's metadata.
        names: Names of the file's tensors, by which another kind of file is recognized.

    Raises:
        ValueError: It is another kind of file, is damaged, or was written by a newer version; what it is is said.
    """
    if METADATA_KEY in metadata:
        raise ValueError(
            f"{path} is no DiffLoRA checkpoint but a LoRA that DiffLoRA made: put it into models/loras and load it as "
            "any other LoRA. DiffLoRA checkpoints belong into models/difflora."
        )
    if HEADER not in metadata:
        kind = "a LoRA file" if any("lora" in name for name in names) else "some other model"
        raise ValueError(
            f"{path} is no DiffLoRA checkpoint but {kind}: it has no {HEADER!r} header. Put DiffLoRA checkpoints "
            "into models/difflora, LoRAs into models/loras, base models into models/checkpoints."
        )
    header = read_header(path, metadata[HEADER], "checkpoint", FORMAT)
    return read_part(path, lambda: (LoRALayout.from_dict(header["layout"]), DiffLoRAConfig.from_dict(header["config"])))


def autoencoder_fingerprint(path: str | Path) -> str:
    """Return 16 digits that tell a checkpoint's autoencoder from others, to which its latents mean something else.

    Of each of its tensors the first row is read, of vectors the whole: training changes all of them. A copy in another
    dtype counts as another one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, or damaged.
    """
    digest = hashlib.sha256()
    with open_tensors(path) as file:
        read_checkpoint_header(path, file.metadata() or {}, file.keys())
        for name in sorted(name for name in file.keys() if name.startswith("lae.")):  # noqa: SIM118 # no mapping
            rows = file.get_slice(name)
            values = rows[:1] if len(rows.get_shape()) > 1 else rows[:]
            digest.update(f"{name} {rows.get_dtype()} {rows.get_shape()}".encode())
            digest.update(values.float().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def write_checkpoint(
    path: str | Path, network: nn.Module, layout: LoRALayout, config: DiffLoRAConfig, dtype: torch.dtype
) -> None:
    """Write a checkpoint file, whole or not at all: weights in `dtype`, statistics in float32.

    Raises:
        OSError: The system refuses: disk full, no permission.
    """
    header = {"format": FORMAT, "layout": layout.to_dict(), "config": asdict(config)}
    write_tensors(path, exact_state(network, dtype), {HEADER: json.dumps(header), "format": "pt"})
