"""Files: safetensors with errors that say what was found instead, and writing that is whole or not at all."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def read_tensors(path: str | Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata.

    Raises FileNotFoundError, or ValueError saying what the file is instead.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {describe_content(path)} ({error}).") from error


def describe_content(path: Path) -> str:
    """What a file that safetensors refused most likely is, judged by its first bytes."""
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
    """Write a safetensors file so that at any moment `path` is either the old file or the whole new one.

    Raises OSError, with its `errno`, where the system refuses: disk full, quota, no permission.
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
    """A path to write to, which takes the place of `path` when the block ends: at any moment `path` is absent, the old
    file or the whole new one. An error leaves nothing behind. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
