"""A person's LoRA latents in a small file, to be decoded or blended later with the same autoencoder.

A latent is some hundred numbers, where the LoRA has millions; but only its own autoencoder knows what they mean.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import open_tensors, shapes_of, write_tensors
from ..network_files import Shapes, read_header
from .row_checks import check_rows

FORMAT = 1
"""Version of the file format; older versions read none that is newer."""
HEADER = "difflora_latent"
"""Key of the file's metadata."""
TENSOR = "latents"


@dataclass(frozen=True)
class LatentHeader:
    """What a file says of its latents."""

    checkpoint: str
    """File name of the checkpoint that made them."""
    made_by: tuple[Mapping[str, Any], ...]
    """How each candidate was made."""
    autoencoder: str
    """`autoencoder_fingerprint` of the checkpoint; empty in files that don't have it."""


@dataclass(frozen=True)
class SavedLatents(LatentHeader):
    """What a file holds."""

    latents: Tensor
    """float32 (candidates, tokens, width)."""


def save_latents(
    path: str | Path,
    latents: Tensor,
    checkpoint: str,
    made_by: Sequence[Mapping[str, Any]],
    autoencoder: str = "",
    move: Callable[[Path, Path], object] = Path.replace,
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: The file.
        latents: (candidates, tokens, width).
        checkpoint: File name of the checkpoint that made them.
        made_by: How each candidate was made, ready for JSON.
        autoencoder: `autoencoder_fingerprint` of the checkpoint; empty: not known.
        move: See `files.replacing`.

    Raises:
        ValueError: The latents have another shape or hold NaN, or a candidate's record is missing.
    """
    check_rows("Latents", latents, ("candidates", "tokens", "width"))
    if len(made_by) != len(latents):
        raise ValueError(f"Found {len(latents)} latents and records of {len(made_by)}: they must agree.")
    header = {"format": FORMAT, "checkpoint": checkpoint, "made_by": [dict(made) for made in made_by]}
    if autoencoder:
        header["autoencoder"] = autoencoder
    tensors = {TENSOR: latents.detach().to("cpu", torch.float32).contiguous()}
    write_tensors(path, tensors, {HEADER: json.dumps(header), "format": "pt"}, move)


def load_latents(path: str | Path) -> SavedLatents:
    """Read what `save_latents` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, is damaged, holds NaN or was written by a newer version.
    """
    with open_tensors(path) as file:
        header = read_latent_header(path, file.metadata() or {}, shapes_of(file))
        latents = file.get_tensor(TENSOR)
    if latents.dtype != torch.float32:
        raise ValueError(f"{path} is damaged: its latents are {latents.dtype}, expected torch.float32.")
    check_rows(f"The latents of {path}", latents, ("candidates", "tokens", "width"))
    return SavedLatents(header.checkpoint, header.made_by, header.autoencoder, latents)


def read_latent_header(path: str | Path, metadata: Mapping[str, str], shapes: Shapes) -> LatentHeader:
    """Read what a file says of its latents.

    Raises:
        ValueError: The file is something else, is damaged or was written by a newer version.
    """
    if HEADER not in metadata or list(shapes) != [TENSOR]:
        raise ValueError(
            f"{path} holds no latent of a person: it has no {HEADER!r} header. Save Identity writes such files."
        )
    header = read_header(path, metadata[HEADER], "latent", FORMAT, ("checkpoint", "made_by"))
    checkpoint, made_by, autoencoder = header["checkpoint"], header["made_by"], header.get("autoencoder", "")
    if not isinstance(checkpoint, str) or not isinstance(made_by, list) or not isinstance(autoencoder, str):
        raise ValueError(f"{path} is damaged: its header lacks the checkpoint or how the latents were made.")
    shape = shapes[TENSOR]
    if len(shape) != 3:
        raise ValueError(f"The latents of {path} are (candidates, tokens, width), found {shape}: it is damaged.")
    if len(made_by) != shape[0] or not all(isinstance(made, dict) for made in made_by):
        raise ValueError(f"{path} is damaged: it has {shape[0]} latents and records of {len(made_by)}.")
    return LatentHeader(checkpoint, tuple(made_by), autoencoder)
