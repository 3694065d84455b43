"""Files: safetensors and headers whose errors say what was found instead, and atomic writing."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def read_tensors(path: str | Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a safetensors file, and its metadata.

    Args:
        path: The file.
        device: Where the tensors are put.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else; what it is is said.
    """
    with open_tensors(path, device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_shapes(path: str | Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Read the shapes of a safetensors file's tensors, and its metadata, without reading the tensors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else; what it is is said.
    """
    with open_tensors(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return shapes, file.metadata() or {}


@contextmanager
def open_tensors(path: str | Path, device: str = "cpu") -> Iterator[Any]:
    """Open a safetensors file, with errors as `read_tensors` has them."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {describe_content(path)} ({error}).") from error


def describe_content(path: Path) -> str:
    """Describe what a file that safetensors refused most likely is, by its first bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty; download it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is an HTML page, most likely a login or error page saved in place of the model; download it again"
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "it is a pickled checkpoint; only safetensors is read, because a pickle can run code"
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{":
        return f"it is truncated or damaged at {size} bytes, its header alone names {header}; download it again"
    return f"{size} bytes that begin with {head[:16]!r}"


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: The file.
        tensors: By name.
        metadata: For the file's header.

    Raises:
        OSError: The system refuses, with its `errno`: disk full, quota, no permission.
    """
    path = Path(path)
    with replacing(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            # safetensors tells a full disk from other trouble in its text only
            if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path), code) from error  # the last is read on Windows only
        with partial.open("rb+") as file:
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that at any moment it is absent, the old one or the whole new one.

    The folder is made. An error leaves nothing behind.

    Args:
        path: The file.

    Yields:
        A path to write to, which takes the place of `path` when the block ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_fields(section: type[Any], values: Mapping[str, Any], name: str) -> Any:
    """Make a configuration dataclass from the values of its fields.

    Raises:
        ValueError: There is a field that this version doesn't have, or an impossible value.
    """
    unknown = values.keys() - {entry.name for entry in fields(section)}
    if unknown:
        raise ValueError(
            f"the {name} configuration has {min(unknown)!r}, which this version doesn't know: update DiffLoRA."
        )
    return section(**values)
