"""Files: safetensors whose errors say what was found instead, and atomic writing.

Readers of a file that others replace get one version or the other. A writer leaves the file before it or the whole new
one; what killed writers left in the folder is removed by the next one.
"""

import errno
import json
import math
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAX_HEADER_BYTES = 32_000_000  # of a safetensors file; SDXL's is 300 kB, and parsing takes many times the memory
MAX_NUMEL = 2**59  # of a tensor in a file; widths of 0 are not counted
MAX_ATTEMPTS = 100  # to open a file that is replaced meanwhile
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Dtypes that are written, by safetensors' names, in the order in which a file has them, so that all are aligned."""
ABANDONED_SECONDS = 24 * 3600.0  # age of another machine's partial file at which its writer is taken for dead
SWEEP_SECONDS = 60.0  # for which a process that swept a folder writes into it without listing it again
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, a limit of a file's size


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a safetensors file, and its metadata.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else; what it is is said.
    """
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_shapes(path: str | Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Read the shapes of a safetensors file's tensors, and its metadata; it fails as `read_tensors` does."""
    with open_tensors(path) as file:
        return shapes_of(file), file.metadata() or {}


def shapes_of(file: Any) -> dict[str, tuple[int, ...]]:
    """List the shapes of the tensors of a file that `open_tensors` opened."""
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file, with errors as `read_tensors` has them."""
    path = Path(path)
    try:
        with _open_one_version(path) as file:
            for name, shape in shapes_of(file).items():  # torch fails for what safetensors accepts beside a width of 0
                if math.prod(width for width in shape if width) > MAX_NUMEL:
                    raise ValueError(f"{path} has a damaged header: tensor {name!r} has the impossible shape {shape}.")
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {describe_content(path)} ({error}).") from error


def _open_one_version(path: Path) -> Any:
    """Open a safetensors file of which the header and the data are of one version.

    safetensors opens a path twice, for the header and for the data; between them the file may be replaced.
    """
    for _ in range(MAX_ATTEMPTS):
        before, opened, failure = _version(path), None, None
        try:
            _check_header_length(path)
            opened = safe_open(path, framework="pt")
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            failure = error
        if _version(path) != before:
            continue
        if failure is not None:
            raise failure
        return opened
    raise OSError(f"{path} was replaced again and again while it was read; try again when it is written less often")


def _version(path: Path) -> tuple[int, ...]:
    """Return what differs between a file and one that replaces it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else: a pipe would be waited for without end.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"There is no file {path}.") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a device or a socket"
        raise ValueError(f"{path} is {kind}, expected a safetensors file.")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_header_length(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and MAX_HEADER_BYTES < length <= path.stat().st_size:
        raise ValueError(f"{path} has a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read.")


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
        return "it is a pickled checkpoint, which can run code: get the model as safetensors, or convert it"
    if head[8:9] == b"{":
        header = int.from_bytes(head[:8], "little")
        return f"it is truncated or damaged at {size} bytes, its header alone names {header}; download it again"
    return f"{size} bytes that begin with {head[:16]!r}"


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    move: Callable[[Path, Path], object] = Path.replace,
) -> None:
    """Write a safetensors file, whole or not at all; tensors may share memory, and each is written.

    safetensors' own writer is not used: it writes into a file of its own with mode 0600, which nobody removes if the
    process is killed.

    Args:
        path: The file.
        tensors: By name.
        metadata: For the file's header, which holds text only: other values are written as text.
        move: See `replacing`.

    Raises:
        OSError: The system refuses, with its `errno`: disk full, quota, no permission.
        ValueError: A dtype that such files don't have, or a header above `MAX_HEADER_BYTES`.
    """
    path, order = Path(path), list(DTYPES)
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{path}: tensor {name} is {tensor.dtype}, which is not written to safetensors files.")
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {key: str(text) for key, text in metadata.items()}} if metadata else {}
    end = 0
    for name in names:
        begin, end, tensor = end, end + tensors[name].nbytes, tensors[name]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"{path} would have a header of {len(text):,} bytes, at most {MAX_HEADER_BYTES:,} are read.")
    with replacing(path, move) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, move: Callable[[Path, Path], object] = Path.replace) -> Iterator[Path]:
    """Write a file so that at any moment it is absent, the old one or the whole new one.

    The folder is made. An error leaves nothing behind.

    Args:
        path: The file.
        move: Gives the written file its name; another one than the default may refuse to replace a file.

    Yields:
        The path of an empty file to write into, which takes the place of `path` when the block ends.

    Raises:
        OSError: The system refuses; of a full disk it is said which file was not written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        partial, lock = _create_partial(path)
        try:
            yield partial
            move(partial, path)
        finally:
            partial.unlink(missing_ok=True)
            if lock is not None:
                os.close(lock)
    except OSError as error:
        if error.errno not in FULL:
            raise
        kept = "the file before it is kept" if path.exists() else "nothing is left of it"
        message = f"{os.strerror(error.errno)}, so this file was not written ({kept}); free some space and repeat"
        raise OSError(error.errno, message, str(path)) from error


@cache
def _machine() -> str:
    """Name the running system: within it a lock says whether a writer lives, in whatever container that is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return re.sub(r"\W", "", platform.node())[:8] or "host"


def _create_partial(path: Path) -> tuple[Path, int | None]:
    """Create an empty file beside `path` under a name that nobody can guess, and lock it while this process lives.

    Returns:
        The file, and the descriptor that holds the lock; None where there are no such locks.
    """
    name = path.name if len(os.fsencode(path.name)) < 200 else path.name[:40]  # the whole may have 255 bytes
    while True:
        partial = path.with_name(f".{name}.{_machine()}.{secrets.token_hex(8)}.partial")
        try:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask says
        except FileExistsError:
            continue
        if fcntl is None:
            os.close(descriptor)  # Windows replaces no open file
            return partial, None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            swept = os.fstat(descriptor).st_nlink == 0
        except BlockingIOError:
            swept = True
        except OSError:  # the file system has no locks
            swept = False
        if not swept:
            return partial, descriptor
        os.close(descriptor)  # another process took it for abandoned between its creation and its lock


_swept: dict[Path, float] = {}  # when this process swept a folder
_PARTIAL = re.compile(r"\..+\.(\w+)\.[0-9a-f]{16}\.partial")


def _sweep(folder: Path) -> None:
    """Remove partial files whose writers are gone."""
    now = time.monotonic()
    if now - _swept.get(folder, -SWEEP_SECONDS) < SWEEP_SECONDS:
        return
    _swept[folder] = now
    with suppress(OSError):  # a folder that may be written but not listed
        for entry in os.scandir(folder):
            if (match := _PARTIAL.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                _remove_if_abandoned(Path(entry.path), match[1] == _machine())


def _remove_if_abandoned(partial: Path, same_machine: bool) -> None:
    with suppress(OSError):
        if not same_machine or fcntl is None:
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink()
            return
        descriptor = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the writer lives
            partial.unlink()
        finally:
            os.close(descriptor)
