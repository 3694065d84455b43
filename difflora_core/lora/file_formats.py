"""LoRA files: kohya names for ComfyUI, PEFT names for diffusers, alpha folded in.

A LoRA that does not fit the layout in every module is refused. ComfyUI would warn, skip what it cannot match and go on
without it, and would accept a factor whose two sides are swapped as long as the number of elements agrees: both end in
silently wrong images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..files import read_tensors, write_tensors
from .layout import Factors, LoRALayout, LoRAModule

Format = Literal["kohya", "peft", "diffusers"]
"""Names of a LoRA file's tensors: kohya's (ComfyUI), or PEFT's, which diffusers reads and gives its name to."""

# Suffixes in use: kohya; PEFT, as saved and as held by a live model; diffusers before PEFT
DOWN = ("lora_down.weight", "lora_A.weight", "lora_A.default.weight", "lora.down.weight")
UP = ("lora_up.weight", "lora_B.weight", "lora_B.default.weight", "lora.up.weight")
SUFFIXES = {
    suffix: role for role, suffixes in (("down", DOWN), ("up", UP), ("alpha", ("alpha",))) for suffix in suffixes
}


def read_lora(source: str | Path | Mapping[str, Tensor], layout: LoRALayout) -> Tensor:
    """Read a LoRA as one flat vector.

    Args:
        source: A file, or tensors by their names in any format.
        layout: The layout that the LoRA has to fit.

    Returns:
        (numel,) float32, alpha / rank folded into the up factors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is something else, or a module or key does not fit the layout; the first is named.
    """
    tensors = source if isinstance(source, Mapping) else read_tensors(source)[0]
    found = _by_module(tensors, layout)
    flat = layout.flatten(
        {module.name: _fold_alpha(module, found[module.name], layout.rank) for module in layout.modules}
    )
    if not flat.isfinite().all():
        broken = next(
            name for name, factors in layout.unflatten(flat).items() if not all(f.isfinite().all() for f in factors)
        )
        raise ValueError(f"The LoRA holds NaN or infinite values, first in {broken}.")
    return flat


def _by_module(tensors: Mapping[str, Tensor], layout: LoRALayout) -> dict[str, dict[str, Tensor]]:
    """Sort tensors by module and role (down, up, alpha), and refuse what the layout lacks or has besides."""
    found: dict[str, dict[str, Tensor]] = {name: {} for name in layout.names}
    modules = {known: name for name in layout.names for known in layout.base.known_names(name)}
    unknown = []
    for key, tensor in tensors.items():
        suffix = next((suffix for suffix in SUFFIXES if key.endswith(f".{suffix}")), None)
        module = modules.get(key.removesuffix(f".{suffix}"))
        if suffix is None or module is None:
            unknown.append(key)
            continue
        if SUFFIXES[suffix] in found[module]:
            raise ValueError(f"The LoRA holds {module} twice, the second time as {key}.")
        found[module][SUFFIXES[suffix]] = tensor
    missing = [name for name, parts in found.items() if not parts]
    if len(missing) == len(layout.modules):
        raise ValueError(
            f"No module of the layout is in the LoRA; its first key is {next(iter(tensors), 'none: it is empty')!r}."
        )
    if missing:
        raise ValueError(f"The LoRA lacks {len(missing)} of {len(layout.modules)} modules, first {missing[0]}.")
    if unknown:
        raise ValueError(
            f"The LoRA holds {len(unknown)} tensors outside the {len(layout.modules)} modules of the layout, "
            f"first {unknown[0]}."
        )
    return found


def _fold_alpha(module: LoRAModule, parts: Mapping[str, Tensor], rank: int) -> Factors:
    """Check one module's factors against its shapes and multiply the up factor by alpha / rank (1 without alpha)."""
    for role in ("down", "up"):
        if role not in parts:
            other = "up" if role == "down" else "down"
            raise ValueError(
                f"The LoRA has {'an' if other == 'up' else 'a'} {other} factor but no {role} factor for {module.name}."
            )
    down, up = parts["down"].float(), parts["up"].float()
    if down.ndim == 2 and up.ndim == 2 and down.shape[0] == up.shape[1] != rank:
        raise ValueError(f"The LoRA has rank {down.shape[0]} in {module.name}, expected rank {rank}.")
    for role, factor, expected in (("down", down, (rank, module.in_features)), ("up", up, (module.out_features, rank))):
        if tuple(factor.shape) != expected:
            raise ValueError(
                f"The LoRA's {role} factor of {module.name} has shape {tuple(factor.shape)}, expected {expected}."
            )
    scale = parts["alpha"].float() / rank if "alpha" in parts else torch.tensor(1.0)
    if scale.numel() != 1:
        raise ValueError(f"alpha of {module.name} is one number, found a tensor of shape {tuple(scale.shape)}.")
    return down, up * scale.reshape(())


def lora_state_dict(flat: Tensor, layout: LoRALayout, format: Format = "kohya") -> dict[str, Tensor]:
    """Name the factors of a flat LoRA as a file does.

    Args:
        flat: (numel,).
        layout: The LoRA's layout.
        format: See `Format`; kohya's tensors include alpha = rank.

    Returns:
        Tensors that are contiguous and own their storage, as ComfyUI's core SaveLoRA demands.

    Raises:
        ValueError: The vector is not one LoRA of the layout, or there is no such format.
    """
    if flat.ndim != 1:
        raise ValueError(
            f"One LoRA is a vector of {layout.numel} weights, found a tensor of shape {tuple(flat.shape)}."
        )
    if format not in ("kohya", "peft", "diffusers"):
        raise ValueError(f"A LoRA is written in the format 'kohya' (ComfyUI) or 'peft' (diffusers), found {format!r}.")
    tensors = {}
    for name, (down, up) in layout.unflatten(flat.detach()).items():
        if format == "kohya":
            key, suffixes = layout.base.kohya_name(name), ("lora_down.weight", "lora_up.weight")
            tensors[f"{key}.alpha"] = torch.tensor(float(layout.rank), dtype=flat.dtype)
        else:
            key, suffixes = layout.base.peft_name(name), ("lora_A.weight", "lora_B.weight")
        for suffix, factor in zip(suffixes, (down, up), strict=True):
            tensors[f"{key}.{suffix}"] = factor.clone(memory_format=torch.contiguous_format)
    return tensors


def save_lora(
    path: str | Path,
    flat: Tensor,
    layout: LoRALayout,
    format: Format = "kohya",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a flat LoRA (numel,) as a safetensors file, whole or not at all.

    Args:
        path: The file.
        flat: (numel,).
        layout: The LoRA's layout.
        format: See `Format`.
        metadata: What the file's header holds besides.

    Raises:
        ValueError: See `lora_state_dict`.
        OSError: The system refuses: disk full, no permission.
    """
    tensors = {name: tensor.cpu() for name, tensor in lora_state_dict(flat, layout, format).items()}
    write_tensors(path, tensors, metadata)
