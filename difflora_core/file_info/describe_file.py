"""What a safetensors file is, in some lines."""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .file_header import FileHeader, read_file_header, show_names, show_tree
from .lora_kinds import describe_lora
from .model_kinds import describe_adapter, describe_model
from .project_files import describe_project_file

MAX_LINES = 400
"""Of metadata that are shown."""


def describe_file(path: str | Path, metadata: bool = False) -> list[str]:
    """Describe a checkpoint, a LoRA or another safetensors file, one fact a line; its weights are not read.

    Args:
        path: The file.
        metadata: Add all metadata, the first `MAX_LINES` lines of them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no safetensors file, or damaged; what it is is said.
    """
    header = read_file_header(path)
    kinds = (describe_project_file, describe_adapter, describe_lora, describe_model)
    kind, *facts = next(filter(None, (describe(header) for describe in kinds)), _describe_unknown(header))
    return [f"{path}: {kind}", _size(header), *facts, *(_metadata(header) if metadata else ())]


def _size(header: FileHeader) -> str:
    values = sum(math.prod(shape) for shape in header.shapes.values())
    dtypes = ", ".join(f"{number} {dtype}" for dtype, number in sorted(header.dtypes.items()))
    megabytes = header.path.stat().st_size / 1e6
    return f"file: {megabytes:,.1f} MB, {values:,} values, {len(header.shapes):,} tensors ({dtypes or 'none'})"


def _describe_unknown(header: FileHeader) -> list[str]:
    return [
        "safetensors of no kind that is known here",
        f"tensors: {show_names(header.shapes) if header.shapes else 'none'}",
        f"metadata: {show_names(header.metadata) if header.metadata else 'none'}",
    ]


def _metadata(header: FileHeader) -> Iterator[str]:
    if not header.metadata:
        yield "metadata: none"
        return
    yield "metadata:"
    lines = show_tree(dict(sorted(header.metadata.items())))
    yield from (f"  {line}" for line in islice(lines, MAX_LINES))
    if left := sum(1 for _ in lines):
        yield f"  … {left:,} lines more"
