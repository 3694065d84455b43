"""Fingerprints: what a result depends on, so that a second run makes again only what would come out differently.

A fingerprint has a value per name: hashes of contents, and values of settings, whose names have a dot
(`filter.min_face`). Contents count, not times of files: a copied workspace is as current as the original.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import DatasetConfig, FacesConfig

Fingerprint = Mapping[str, Any]
"""Ready for JSON."""
HASH_DIGITS = 32
"""Hexadecimal digits of a hash, 128 bits."""
SETTLED_SECONDS = 2.0
"""Age from which a file's times tell whether its content has changed: some file systems count in units of 2 s."""


def hash_value(value: Any) -> str:
    """Hash a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:HASH_DIGITS]


def hash_file(path: Path) -> str:
    """Hash a file's content. Within a process a file is read again only if it has changed, or was just changed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else than a file.
    """
    status = path.stat()
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if time.time() - status.st_ctime < SETTLED_SECONDS:
        return _hash_content(path)
    return _hash_settled(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=1_000_000)
def _hash_settled(path: Path, version: tuple[int, ...]) -> str:  # noqa: ARG001 # a part of the cache's key
    return _hash_content(path)


def _hash_content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:HASH_DIGITS]


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the contents of files in order; a missing one counts as one without content.

    Raises:
        ValueError: A path is something else than a file.
    """
    return hash_value([hash_file(path) if path.exists() else None for path in paths])


def hash_tensor(tensor: Tensor) -> str:
    """Hash a tensor's values in float32."""
    return hashlib.sha256(tensor.detach().cpu().float().contiguous().numpy().data).hexdigest()[:HASH_DIGITS]


def hash_weights(network: nn.Module, more: str = "") -> str:
    """Hash all weights and buffers of a network, after a text that belongs to them."""
    hashed = hashlib.sha256(more.encode())
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()


def hash_face_models(config: FacesConfig) -> str:
    """Hash the models of a face pack."""
    return hash_files(sorted((config.root / "models" / config.pack).glob("*.onnx")))


def settings_of(config: DatasetConfig, *names: str) -> dict[str, Any]:
    """Return the values of settings by their names in the YAML file, as `filter.min_face`."""
    found = {}
    for name in names:
        section, field = name.split(".")
        found[name] = asdict(getattr(config, section))[field]
    return found


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Return what differs between two fingerprints, a phrase for each."""
    if not before and now:
        return ["it is not recorded what it was made from"]
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old != new:
            found.append(f"{name} was {old!r}, is {new!r}" if "." in name else f"other {name}")
    return found
