"""Checkpoint files: one safetensors file with all weights, and everything else as JSON in its header.

A network is made without memory (on the meta device), compared with the tensors of the file, and only then filled: a
header that claims more than the file holds costs nothing, and no weights are drawn that would be replaced.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .config import DiffLoRAConfig
from .fields import read_json
from .files import shapes_of, write_tensors
from .lora.layout import LoRALayout
from .lora.lora import METADATA_KEY
from .precision import exact_state

FORMAT = 1
"""Version of the file format; older versions read none that is newer."""
HEADER = "difflora"
"""Key of the file's metadata that has layout and configuration."""
READING_ERRORS = (AttributeError, ArithmeticError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
"""What a header of another form makes Python raise."""

Network = TypeVar("Network", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a file's tensors by name."""


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


def read_header(path: str | Path, text: str, kind: str, newest: int) -> dict[str, Any]:
    """Read a header and check the version of its format.

    Args:
        path: The file, for errors.
        text: The JSON.
        kind: What the file is, for errors.
        newest: The newest format that is read.

    Raises:
        ValueError: It is no JSON object, has no layout or configuration, or is of another format.
    """
    header = read_json(text, f"{path} is no {kind}: its header")
    for name in ("format", "layout", "config"):
        if name not in header:
            raise ValueError(f"{path} is no {kind}: its header has no {name!r}.")
    found = header["format"]
    if isinstance(found, int) and found > newest:
        raise ValueError(f"{path} has {kind} format {found}, this version reads up to {newest}: update DiffLoRA.")
    if type(found) is not int or found < 1:
        raise ValueError(f"{path} has {kind} format {found!r}, expected 1 to {newest}: its header is damaged.")
    return header


Part = TypeVar("Part")


def read_part(path: str | Path, read: Callable[[], Part]) -> Part:
    """Read a part of a header; whatever is wrong with it becomes one error.

    Raises:
        ValueError: The part has another form.
    """
    try:
        return read()
    except READING_ERRORS as error:
        found = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(f"{path} has a header that cannot be read: {found}") from error


def load_network(
    path: str | Path, file: Any, make: Callable[[], Network], statistics: Shapes, layers: Iterable[int]
) -> Network:
    """Make a network and fill it with the tensors of an open file, in float32.

    Args:
        path: The file, for errors.
        file: The file, see `files.open_tensors`.
        make: Makes the network, of which time and memory on the meta device grow with `statistics` and `layers` alone.
        statistics: Shapes of some of the file's tensors that follow from its layout.
        layers: Numbers of layers that the header claims; each has tensors.

    Raises:
        ValueError: The tensors don't fit the header, or a value is NaN or infinite; the first is named.
    """
    shapes = shapes_of(file)
    misfit = f"{path} holds weights that don't fit its header:"
    for name, shape in statistics.items():
        _check_shape(misfit, name, shapes, shape)
    if (most := max(layers)) > len(shapes):
        raise ValueError(f"{misfit} {len(shapes)} tensors, expected some for each of {most} layers.")

    def make_empty() -> Network:
        with torch.device("meta"):
            return make()

    network = read_part(path, make_empty)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, shape in expected.items():
        _check_shape(misfit, name, shapes, shape)
    if unknown := sorted(shapes.keys() - expected):
        raise ValueError(f"{misfit} {len(unknown)} tensors too many, the first {unknown[0]!r}.")
    network.load_state_dict({name: _finite(path, name, file.get_tensor(name)) for name in expected}, assign=True)
    return network


def _check_shape(misfit: str, name: str, shapes: Shapes, expected: tuple[int, ...]) -> None:
    if name not in shapes:
        raise ValueError(f"{misfit} {name!r} is missing, expected {expected}.")
    if shapes[name] != expected:
        raise ValueError(f"{misfit} {name!r} is {shapes[name]}, expected {expected}.")


def _finite(path: str | Path, name: str, tensor: Tensor) -> Tensor:
    """Copy a tensor of a file, which may be replaced later, in float32."""
    if not tensor.is_floating_point():
        raise ValueError(f"{path} holds {name!r} as {tensor.dtype}, expected floating-point numbers.")
    exact = tensor.to(torch.float32, copy=True)
    if exact.numel() and not torch.stack(exact.aminmax()).isfinite().all():
        raise ValueError(
            f"{path} holds NaN or infinite values, first in {name!r}: its training diverged, or the file is damaged."
        )
    return exact


def write_checkpoint(
    path: str | Path, network: nn.Module, layout: LoRALayout, config: DiffLoRAConfig, dtype: torch.dtype
) -> None:
    """Write a checkpoint file, whole or not at all: weights in `dtype`, statistics in float32.

    Raises:
        OSError: The system refuses: disk full, no permission.
    """
    header = {"format": FORMAT, "layout": layout.to_dict(), "config": asdict(config)}
    write_tensors(path, exact_state(network, dtype), {HEADER: json.dumps(header), "format": "pt"})
