"""What a LoRA file holds: factors of the layout's modules at any rank, and every other tensor by what it belongs to."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import read_tensors
from .layer_tensors import FACTORS, Layer, LayerScale, pair
from .layout import Factors, LoRALayout, LoRAModule
from .tensor_names import Role, TensorName, parse

EXTRACT = (
    "To get a LoRA of it: in ComfyUI apply it to its base model, subtract the base model (ModelMergeSubtract) and run "
    "Extract and Save Lora with bias_diff off."
)
MISFIT = "The LoRA is for another base model or for other layers. "
OUTSIDE: tuple[Role, ...] = ("difference", "bias")
"""What only layers outside the layout may have beside factors: it can be measured and left out."""
NOT_OF_LINEAR: Mapping[Role, str] = {
    "mid": "is the middle one of a convolution's three factors (LoCon)",
    "bias": "changes a bias, which up · down cannot",
    "difference": "is a whole difference of weights",
}
"""Why a tensor of a module in the layout is refused."""


@dataclass(frozen=True)
class LoRAContents:
    """A LoRA file's tensors, sorted: nothing in it is passed over."""

    factors: dict[str, Factors]
    """By the layout's names: down (rank, in) and up (out, rank), float32, the scale folded into up; rank varies."""
    rounding: float
    """Largest machine epsilon of the factors' dtypes."""
    other_layers: dict[str, Layer]
    """Layers of the base model's network outside the layout, by the file's names."""
    other_norm: float
    """Σ ‖ΔW‖² of them, biases included."""
    text_encoder: tuple[str, ...]
    """Names of tensors of text encoders."""
    metadata: Mapping[str, str]
    """Of the file."""

    @property
    def other_tensors(self) -> list[str]:
        """Names of the tensors of layers outside the layout."""
        return [key for layer in self.other_layers.values() for key in layer.keys.values()]


def read_contents(source: str | Path | Mapping[str, Tensor], layout: LoRALayout) -> LoRAContents:
    """Read a LoRA of any naming and any ranks, in which nothing may be unknown.

    Args:
        source: A file, or tensors by their names; alphas may be plain numbers there.
        layout: The modules that the LoRA has to have; its rank does not matter.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is something else; a module of the layout is missing, has another shape, or belongs to
            another method than LoRA; a tensor is unknown; values are complex or not finite; PEFT's scale is not known.
            The message begins with the file, if it is one.
    """
    if isinstance(source, Mapping):
        return _sort(source, {}, layout, None)
    tensors, metadata = read_tensors(source)
    with errors_of(source):
        return _sort(tensors, metadata, layout, Path(source))


@contextmanager
def errors_of(source: str | Path | Mapping[str, Tensor]) -> Iterator[None]:
    """Put a file's path before the messages of the ValueErrors of a block; tensors without a file have none."""
    try:
        yield
    except ValueError as error:
        if isinstance(source, Mapping):
            raise
        raise ValueError(f"{source}: {error}") from error


def _sort(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], layout: LoRALayout, path: Path | None
) -> LoRAContents:
    """See `read_contents`; the path is that of the file, if it is one."""
    layers, others, text = _layers(tensors, layout)
    scale = LayerScale(layout.base, path, metadata)
    factors = {module.name: _factors(module, layers[module.name], scale) for module in layout.modules}
    dtypes = {layer.tensors[role].dtype for layer in layers.values() for role in FACTORS}
    rounding = max(torch.finfo(dtype).eps for dtype in dtypes)
    norms = {name: _squared_norm(layer, scale) for name, layer in others.items()}
    if broken := next((name for name, norm in norms.items() if not math.isfinite(norm)), None):
        raise ValueError(f"The LoRA holds NaN or infinite values, first in {broken}.")
    return LoRAContents(factors, rounding, others, sum(norms.values()), tuple(text), metadata)


def _layers(tensors: Mapping[str, Tensor], layout: LoRALayout) -> tuple[dict[str, Layer], dict[str, Layer], list[str]]:
    """Sort tensors by the layer that they belong to.

    Returns:
        The layout's layers, by its names of the modules; the network's other layers, by the file's names; the tensors
        of text encoders.

    Raises:
        ValueError: A tensor is unknown or of another method than LoRA, or a factor of the layout is missing.
    """
    names = {key: parse(key) for key in tensors}
    check_adapters(names.values())
    table = _name_table(layout, {name.layer for name in names.values()})
    layers: dict[str, Layer] = {}
    others: dict[str, Layer] = {}
    text, unknown = [], []
    for key, tensor in tensors.items():
        name, part = names[key], layout.base.part(key)
        module = table.get(name.layer)
        if part == "text encoder":
            text.append(key)
            continue
        if name.method is not None:
            raise ValueError(f"{key} belongs to {name.method}, another method than LoRA: not supported. {EXTRACT}")
        if name.role == "unknown" or (module is None and part != "network"):
            unknown.append(key)
        elif module is None:
            others.setdefault(name.layer, Layer(name.layer)).add(key, name.role, tensor)
        elif name.role in NOT_OF_LINEAR:
            raise ValueError(f"{key} {NOT_OF_LINEAR[name.role]}: not supported. {EXTRACT}")
        else:
            layers.setdefault(module, Layer(name.layer)).add(key, name.role, tensor)
    _check_complete(layout, layers, others, text, unknown, next(iter(tensors), "none: it is empty"))
    return layers, others, text


def check_adapters(names: Iterable[TensorName]) -> None:
    """Refuse a file of several of PEFT's adapters.

    Raises:
        ValueError: It holds several; they are named.
    """
    adapters = {name.adapter for name in names if name.role in FACTORS}
    if len(adapters) > 1:
        listed = ", ".join(sorted(adapter or "one without a name" for adapter in adapters))
        raise ValueError(f"The LoRA holds several adapters of PEFT ({listed}), expected one: save each on its own.")


def _name_table(layout: LoRALayout, found: set[str]) -> Mapping[str, str]:
    """Return the table of names that knows most modules of the file, the first of equals."""
    best: Mapping[str, str] = {}
    most = -1
    for table in layout.base.name_tables(layout.names):
        known = len({table[name] for name in found if name in table})
        if known > most:
            best, most = table, known
        if most == len(layout.names):
            break
    return best


def _check_complete(
    layout: LoRALayout,
    layers: Mapping[str, Layer],
    others: Mapping[str, Layer],
    text: Sequence[str],
    unknown: Sequence[str],
    first: str,
) -> None:
    """Refuse a LoRA that lacks a module of the layout, or has what nobody knows."""
    missing = [name for name in layout.names if name not in layers]
    if text and not (layers or others or unknown):
        raise ValueError(f"The LoRA changes text encoders only ({len(text)} tensors, first {text[0]}).")
    if not layers:
        raise ValueError(f"{MISFIT}No module of the layout is in it; its first key is {first!r}.")
    if missing:
        raise ValueError(f"{MISFIT}It lacks {len(missing)} of {len(layout.modules)} modules, first {missing[0]}.")
    if unknown:
        raise ValueError(
            f"The LoRA holds {len(unknown)} unknown tensors outside the {len(layout.modules)} modules of the layout, "
            f"first {unknown[0]}; none can be left out, since what they do is not known."
        )


def _factors(module: LoRAModule, layer: Layer, scale: LayerScale) -> Factors:
    """Check one module's factors against its shapes and multiply the up factor by the scale."""
    down, up = pair(layer, module.name)
    fitting = [
        factor.shape[axis]
        for factor, axis, width in ((down, 0, module.in_features), (up, 1, module.out_features))
        if factor.ndim == 2 and factor.shape[1 - axis] == width
    ]
    rank = (*fitting, *down.shape, 0)[0]
    for role, factor, expected in (("down", down, (rank, module.in_features)), ("up", up, (module.out_features, rank))):
        if tuple(factor.shape) != expected:
            raise ValueError(
                f"{MISFIT}The {role} factor of {module.name} has shape {tuple(factor.shape)}, expected {expected}."
            )
    if rank == 0:
        raise ValueError(f"The LoRA has factors of rank 0 in {module.name}; the file is damaged.")
    up = up * scale(layer, rank)
    if not (down.isfinite().all() and up.isfinite().all()):
        raise ValueError(f"The LoRA holds NaN or infinite values, first in {module.name}.")
    return down, up


def _squared_norm(layer: Layer, scale: LayerScale) -> float:
    """Compute ‖ΔW‖² of a layer outside the layout, convolutions as matrices."""
    total = sum(float(layer.tensors[role].double().square().sum()) for role in OUTSIDE if role in layer.tensors)
    roles = layer.tensors.keys()
    if roles != {"alpha"} and not {*FACTORS, "mid"} & roles:  # an alpha alone belongs to factors of a name not known
        return total
    try:
        down, up = (factor.double().flatten(1) for factor in pair(layer, layer.name))
        down, up = triangles(down, up)
        if "mid" in layer.tensors:
            mid = layer.tensors["mid"].double().flatten(2)
            change = down.mT @ (up @ mid.flatten(1)).unflatten(1, mid.shape[1:])  # (up, down, kernel)
        else:
            change = up @ down
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"The factors of {layer.name} do not fit one another; the file is damaged.") from error
    return total + float(scale(layer, len(down))) ** 2 * float(change.square().sum())


def triangles(down: Tensor, up: Tensor) -> Factors:
    """Return factors of which up · down, whatever stands between them, has the same norm, no larger than the rank.

    They are R of up = QR and of downᵀ = QR. The products upᵀ · up and down · downᵀ would give the norm, too, but of a
    rank far above the layer's widths they need far more memory than the factors.

    Args:
        down: (rank, in).
        up: (out, rank).

    Returns:
        (rank, at most in) and (at most out, rank).
    """
    return torch.linalg.qr(down.mT, mode="r").R.mT, torch.linalg.qr(up, mode="r").R
