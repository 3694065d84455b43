"""The header of a safetensors file, and how it is shown: in short lines, since anybody may have written it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import open_tensors
from ..images import printable

MAX_VALUE = 200
"""Characters of a value that are shown."""
MAX_NAMES = 8
"""Names that are listed, of however many there are."""
MAX_DEPTH = 5
"""Levels of nested values that are taken apart."""
_TEXT_KEY = re.compile(r"attn2[._](processor\.)?to_k(\.weight$|\.down$|[._]lora)")
_MODELS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "the refiner of SDXL", 2048: "SDXL"}
"""By the width of the text embeddings that the U-Net attends to."""


@dataclass(frozen=True)
class FileHeader:
    """What a file says of itself."""

    path: Path
    """The file."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors, by name."""
    dtypes: Mapping[str, int]
    """Numbers of tensors, by safetensors' names of dtypes."""
    metadata: Mapping[str, str]
    """Of the file."""

    def has(self, *beginnings: str) -> bool:
        """Tell whether there are tensors with each of these beginnings."""
        return all(any(name.startswith(beginning) for name in self.shapes) for beginning in beginnings)


def read_file_header(path: str | Path) -> FileHeader:
    """Read a header.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or damaged; what it is is said.
    """
    with open_tensors(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
        dtypes = Counter(str(found.get_dtype()) for found in slices.values())
        return FileHeader(Path(path), shapes, dtypes, file.metadata() or {})


def describe_base_model(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name the base model by the cross-attention's keys: weights (out, text), or factors (rank, text)."""
    widths = {shape[1] for name, shape in shapes.items() if len(shape) > 1 and _TEXT_KEY.search(name)}
    if len(widths) != 1:
        return "base model: not recognized"
    width = widths.pop()
    return f"base model: {model_of_width(width)}, by its text embeddings of width {width}"


def model_of_width(width: int) -> str:
    """Name the base model that attends to text embeddings of this width."""
    return _MODELS.get(width, "not a published one")


def show(value: Any) -> str:
    """Show a value on one line, cut off where it is long, without control characters."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return printable(text[:MAX_VALUE]) + ("…" if len(text) > MAX_VALUE else "")


def show_names(names: Mapping[str, Any] | list[str]) -> str:
    """List the first names."""
    first = [show(name) for name, _ in zip(names, range(MAX_NAMES), strict=False)]
    return ", ".join(first) + (f", … ({len(names):,} in all)" if len(names) > len(first) else "")


def show_tree(values: Mapping[str, Any], depth: int = 1) -> Iterator[str]:
    """Yield a line for each value, those of nested mappings indented; texts that are JSON objects are taken apart."""
    for name, value in values.items():
        inner = _parse(value)
        if not inner or depth == MAX_DEPTH:
            yield f"{show(name)}: {show(value)}"
        elif any(isinstance(part, Mapping) for part in inner.values()):
            yield f"{show(name)}:"
            yield from (f"  {line}" for line in show_tree(inner, depth + 1))
        else:
            yield show_line(name, inner)


def show_line(name: str, values: Mapping[str, Any]) -> str:
    """Show plain values on one line."""
    return f"{show(name)}: " + show(", ".join(f"{key} {show(value)}" for key, value in values.items()))


def _parse(value: Any) -> Mapping[str, Any]:
    """Return the mapping that a value is or holds as JSON, else an empty one."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}
