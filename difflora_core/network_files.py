"""Networks in files: headers, weights that are compared before they are loaded, and their precision.

A network is made without memory (on the meta device), compared with the tensors of the file, and only then filled: a
header that claims more than the file holds costs nothing, and no weights are drawn that would be replaced.

Half precision is for weights. Statistics (mean LoRA, scales, deviations) are buffers and stay float32: in half
precision they would shift every LoRA by their rounding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .fields import read_json
from .files import read_tensors, shapes_of

Network = TypeVar("Network", bound=nn.Module)
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights are computed and stored in."""
READING_ERRORS = (AttributeError, ArithmeticError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
"""What a header of another form makes Python raise."""
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a file's tensors by name."""
Part = TypeVar("Part")


def exact_state(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copy a network's state for a file: weights in `dtype`, statistics in float32, on the CPU, contiguous.

    Raises:
        ValueError: `dtype` is none of `WEIGHT_DTYPES`, or a weight is beyond its largest number.
    """
    _check_dtype(dtype)
    statistics = dict(network.named_buffers())
    state = {
        name: (tensor.float() if name in statistics else tensor.to(dtype)).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    for name, tensor in network.state_dict().items():
        if state[name].isinf().any() and not tensor.isinf().any():
            raise ValueError(
                f"{name} has weights up to {tensor.abs().max():.3g}, and {dtype} ends at {torch.finfo(dtype).max:.3g}: "
                "save in bfloat16 or float32, nothing was written"
            )
    return state


def cast_weights(network: Network, device: str | torch.device, dtype: torch.dtype) -> Network:
    """Cast a network's weights and move it to a device, in place; statistics keep their dtype.

    Raises:
        ValueError: `dtype` is none of `WEIGHT_DTYPES`.
    """
    _check_dtype(dtype)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    network.to(device)
    return network


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in WEIGHT_DTYPES:  # integers would cut weights off without a word
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(map(str, WEIGHT_DTYPES))}")


def read_header(
    path: str | Path, text: str, kind: str, newest: int, parts: Sequence[str] = ("layout", "config")
) -> dict[str, Any]:
    """Read a header and check the version of its format.

    Args:
        path: The file, for errors.
        text: The JSON.
        kind: What the file is, for errors.
        newest: The newest format that is read.
        parts: What it has to have, beside the version.

    Raises:
        ValueError: It is no JSON object, lacks a part, or is of another format.
    """
    header = read_json(text, f"{path} is no {kind}: its header")
    for name in ("format", *parts):
        if name not in header:
            raise ValueError(f"{path} is no {kind}: its header has no {name!r}.")
    found = header["format"]
    if isinstance(found, int) and found > newest:
        raise ValueError(f"{path} has {kind} format {found}, this version reads up to {newest}: update DiffLoRA.")
    if type(found) is not int or found < 1:
        raise ValueError(f"{path} has {kind} format {found!r}, expected 1 to {newest}: its header is damaged.")
    return header


def read_part(path: str | Path, read: Callable[[], Part]) -> Part:
    """Read a part of a header; whatever is wrong with it becomes one error.

    Raises:
        ValueError: The part has another form.
    """
    try:
        return read()
    except READING_ERRORS as error:
        raise ValueError(f"{path} has a header that cannot be read: {describe_reading_error(error)}") from error


def describe_reading_error(error: Exception) -> str:
    """Say what is wrong with a header of another form, by one of `READING_ERRORS`."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__


def read_tensors_by_part(path: Path, parts: Sequence[str], kind: str) -> dict[str, dict[str, Tensor]]:
    """Read a file of several networks, whose tensors' names begin with the name of a part and a dot.

    Args:
        path: The file.
        parts: Names of all parts that it may have.
        kind: What the file should be, for errors.

    Returns:
        By part, its tensors by the rest of their names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else.
    """
    found: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for name, tensor in read_tensors(path)[0].items():
        part, _, rest = name.partition(".")
        if part not in found:
            raise ValueError(f"{path} is not {kind}: it holds {name}, expected names in {' and '.join(parts)}")
        found[part][rest] = tensor
    return found


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
