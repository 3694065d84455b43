"""Headers of safetensors files, and values per person that are read without the LoRAs beside them."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from difflora_core.files import describe_content

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""Dtypes of measured values by safetensors' names."""
BYTES_PER_VALUE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""By safetensors' names of dtypes."""
MAX_HEADER_BYTES = 32_000_000
"""300,000 people in one shard; parsing takes many times the memory."""
LENGTH_BYTES = 8
"""A file begins with the length of its header."""


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file, and check it completely against the file.

    Returns:
        The header, with dtype, shape and data_offsets (begin, end) of each tensor and strings under `__metadata__`; and
        where the data begins, in bytes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, not a safetensors file, or has another size than its header says; shapes,
            dtypes and offsets disagree, or tensors overlap.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if not path.is_file():  # a pipe would be waited for without end
        raise ValueError(f"{path} is not a regular file, expected a safetensors file.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        text = file.read(length) if length <= min(MAX_HEADER_BYTES, size) else b""
    try:
        header = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a safetensors file: {describe_content(path)}.") from error
    try:
        end = _check_tensors(header)
    except ValueError as error:
        raise ValueError(f"{path} has a damaged header: {error}.") from error
    begin = LENGTH_BYTES + length
    if size < begin + end:
        raise ValueError(f"{path} is truncated: it has {size} bytes, expected {begin + end}.")
    if size > begin + end:
        raise ValueError(f"{path} has {size} bytes, expected {begin + end}: another file was written over it.")
    return header, begin


def file_version(status: os.stat_result) -> tuple[int, int, int]:
    """Return what differs between a file and one that replaces it."""
    return status.st_mtime_ns, status.st_size, status.st_ino


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice")
    return values


def _check_tensors(header: Any) -> int:
    """Check the entries of a header.

    Returns:
        The end of the data.

    Raises:
        ValueError: What is wrong, and with which tensor.
    """
    if not isinstance(header, dict):
        raise ValueError(f"it is a {type(header).__name__}, expected tensors by name")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts by name")
    ranges = sorted(_tensor_range(name, tensor) for name, tensor in header.items() if name != "__metadata__")
    end = 0
    for begin, stop, name in ranges:
        if begin != end:
            raise ValueError(f"tensor {name!r} begins at byte {begin}, expected {end}, where the one before it ends")
        end = stop
    return end


def _tensor_range(name: str, tensor: Any) -> tuple[int, int, str]:
    """Where a tensor's data begin and end, and its name.

    Raises:
        ValueError: Its entry is of another form, or dtype, shape and offsets disagree.
    """
    if not isinstance(tensor, dict) or tensor.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} has no dtype, shape and data_offsets alone")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_PER_VALUE:
        raise ValueError(f"tensor {name!r} is {dtype!r}, expected one of {', '.join(BYTES_PER_VALUE)}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"{what} of tensor {name!r} is {numbers!r}, expected numbers of at least 0")
    expected = math.prod(shape) * BYTES_PER_VALUE[dtype]
    if len(offsets) != 2 or offsets[1] - offsets[0] != expected:
        raise ValueError(f"tensor {name!r} is {dtype} {shape} at {offsets}, expected {expected} bytes")
    return offsets[0], offsets[1], name


def read_measured(path: Path) -> dict[str, list[float]]:
    """Read a file's tensors of one value per person; safetensors would map the LoRAs, too.

    Raises:
        ValueError: It is not a whole safetensors file.
    """
    header, begin = read_header(path)
    values = {}
    with path.open("rb") as file:
        for name, tensor in header.items():
            if name != "__metadata__" and len(tensor["shape"]) == 1 and tensor["dtype"] in DTYPES:
                first, last = tensor["data_offsets"]
                file.seek(begin + first)
                content = bytearray(file.read(last - first))
                values[name] = torch.frombuffer(content, dtype=DTYPES[tensor["dtype"]]).double().tolist()
    return values
