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

from ..files import write_tensors
from .file_contents import errors_of, read_contents
from .layout import LoRALayout

Format = Literal["kohya", "peft", "diffusers"]
"""Names of a LoRA file's tensors: kohya's (ComfyUI), or PEFT's, which diffusers reads and gives its name to: `peft`, as
in workflows of the node Save LoRA, and `diffusers`, as in commands, are one format."""


def read_lora(source: str | Path | Mapping[str, Tensor], layout: LoRALayout) -> Tensor:
    """Read a LoRA as one flat vector.

    Args:
        source: A file, or tensors by their names in any format.
        layout: The layout that the LoRA has to fit, rank included, with nothing besides.

    Returns:
        (numel,) float32, alpha / rank folded into the up factors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The LoRA has another rank or tensors of other layers or of text encoders, the first of which is
            named; or see `read_contents`.
    """
    contents = read_contents(source, layout)
    with errors_of(source):
        besides = [*contents.other_tensors, *contents.text_encoder]
        if besides:
            raise ValueError(
                f"The LoRA holds {len(besides)} tensors outside the {len(layout.modules)} modules of the layout "
                f"({len(contents.other_layers)} other layers, {len(contents.text_encoder)} tensors of text encoders), "
                f"first {besides[0]}."
            )
        for name, (down, _) in contents.factors.items():
            if len(down) != layout.rank:
                raise ValueError(f"The LoRA has rank {len(down)} in {name}, expected rank {layout.rank}.")
    return layout.flatten(contents.factors)


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
        raise ValueError(
            f"A LoRA is written in the format 'kohya' (ComfyUI) or 'diffusers', which is also called 'peft', found "
            f"{format!r}."
        )
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
        ValueError: See `lora_state_dict` and `storable`.
        OSError: The system refuses: disk full, no permission.
    """
    write_tensors(path, storable(lora_state_dict(flat, layout, format)), metadata)


def storable(lora: Mapping[str, Tensor | float], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Copy a LoRA's tensors into such as a file can hold: on the CPU, contiguous, none with the storage of another.

    Args:
        lora: Tensors by name; alphas may be plain numbers, or one tensor for all modules.
        dtype: Of the copies; None keeps each tensor's own. Vectors of whole numbers keep theirs in any case: they are
            sizes, such as those of a layer that a LoRA enlarges (`reshape_weight`), which ComfyUI takes as they are.

    Raises:
        ValueError: Values are complex, or not finite in `dtype`; the first tensor is named.
    """
    tensors = {}
    for name, value in lora.items():
        tensor = torch.as_tensor(value).detach()
        if tensor.is_complex():
            raise ValueError(f"{name} holds complex numbers, which no LoRA file has.")
        are_sizes = tensor.ndim == 1 and not tensor.is_floating_point()
        copy = torch.empty(tensor.shape, dtype=tensor.dtype if are_sizes else dtype or tensor.dtype).copy_(tensor)
        if not (copy.float() if copy.element_size() == 1 else copy).isfinite().all():  # not implemented for float8
            raise ValueError(f"The LoRA holds NaN or infinite values, first in {name}; it is not saved.")
        tensors[name] = copy
    return tensors
