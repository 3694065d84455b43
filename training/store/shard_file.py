"""Headers of safetensors files, and values per person that are read without the LoRAs beside them."""

import json
from pathlib import Path
from typing import Any

import torch

from difflora_core.files import describe_content

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""Dtypes by safetensors' names."""
MAX_HEADER_BYTES = 100_000_000
"""What safetensors itself allows."""
LENGTH_BYTES = 8
"""A file begins with the length of its header."""


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file.

    Returns:
        The header, with dtype, shape and data_offsets (begin, end) of each tensor and strings under `__metadata__`; and
        where the data begins, in bytes.

    Raises:
        ValueError: It is not a safetensors file, or shorter than its header says.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        text = file.read(length) if length <= MAX_HEADER_BYTES else b""
    try:
        header = json.loads(text)
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {describe_content(path)}.") from error
    begin = LENGTH_BYTES + length
    if (size := path.stat().st_size) < begin + end:
        raise ValueError(f"{path} is truncated: it has {size} bytes, expected {begin + end}.")
    return header, begin


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
