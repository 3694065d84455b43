"""LoRA files: kohya names for ComfyUI, PEFT names for diffusers, alpha folded in.

A LoRA that does not fit the layout in every module is refused. ComfyUI would warn, skip what it cannot match and go on
without it, and would accept a factor whose two sides are swapped as long as the number of elements agrees: both end in
silently wrong pictures.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..files import read_tensors, write_tensors
from .layout import Factors, LoRALayout, LoRAModule

Format = Literal["kohya", "peft"]

# Suffixes in use: kohya; PEFT, as saved and as held by a live model; diffusers before PEFT
DOWN = ("lora_down.weight", "lora_A.weight", "lora_A.default.weight", "lora.down.weight")
UP = ("lora_up.weight", "lora_B.weight", "lora_B.default.weight", "lora.up.weight")
SUFFIXES = {
    suffix: role for role, suffixes in (("down", DOWN), ("up", UP), ("alpha", ("alpha",))) for suffix in suffixes
}
BLOCKS = re.compile(r"^(down_blocks|up_blocks)\.(\d+)\.attentions\.(\d+)\.")
LAYERS_PER_BLOCK = 2  # of SDXL's U-Net; the block numbers of ldm names depend on it


def ldm_name(name: str) -> str:
    """A diffusers module name as SDXL's single-file checkpoints number it: ``input_blocks.4.1.…``."""
    if name.startswith("mid_block.attentions.0."):
        return name.replace("mid_block.attentions.0.", "middle_block.1.", 1)
    match = BLOCKS.match(name)
    if match is None:
        return name
    stage, block, layer = match[1], int(match[2]), int(match[3])
    number = block * (LAYERS_PER_BLOCK + 1) + layer
    prefix = f"input_blocks.{number + 1}.1." if stage == "down_blocks" else f"output_blocks.{number}.1."
    return prefix + name[match.end() :]


def known_names(module: LoRAModule) -> list[str]:
    """Every spelling of a module that :func:`read_lora` understands, without the suffix of the factor."""
    diffusers, ldm = module.name, ldm_name(module.name)
    flat = [f"lora_unet_{name.replace('.', '_')}" for name in (diffusers, ldm)]
    dotted = [prefix + diffusers for prefix in ("unet.", "", "base_model.model.", "base_model.model.unet.")]
    return [*flat, *dotted, f"diffusion_model.{ldm}", f"diffusion_model.{diffusers}"]


def read_lora(source: str | Path | Mapping[str, Tensor], layout: LoRALayout) -> Tensor:
    """A LoRA file or state dict as one flat vector ``(numel,)`` float32, alpha / rank folded into the up factors.

    Raises ValueError naming the first module or key that does not fit the layout.
    """
    tensors = source if isinstance(source, Mapping) else read_tensors(source)[0]
    found: dict[str, dict[str, Tensor]] = {module.name: {} for module in layout.modules}
    modules = {name: module.name for module in layout.modules for name in known_names(module)}
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
    flat = layout.flatten(
        {module.name: fold_alpha(module, found[module.name], layout.rank) for module in layout.modules}
    )
    if not flat.isfinite().all():
        broken = next(
            name for name, factors in layout.unflatten(flat).items() if not all(f.isfinite().all() for f in factors)
        )
        raise ValueError(f"The LoRA holds NaN or infinite numbers, first in {broken}.")
    return flat


def fold_alpha(module: LoRAModule, parts: Mapping[str, Tensor], rank: int) -> Factors:
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
    """A flat LoRA ``(numel,)`` as tensors under kohya names (ComfyUI, alpha = rank) or PEFT names (diffusers).

    Every tensor is contiguous and owns its storage, as ComfyUI's core SaveLoRA demands.
    """
    if flat.ndim != 1:
        raise ValueError(
            f"One LoRA is a vector of {layout.numel} numbers, found a tensor of shape {tuple(flat.shape)}."
        )
    tensors = {}
    for name, (down, up) in layout.unflatten(flat.detach()).items():
        if format == "kohya":
            base, suffixes = f"lora_unet_{name.replace('.', '_')}", ("lora_down.weight", "lora_up.weight")
            tensors[f"{base}.alpha"] = torch.tensor(float(layout.rank), dtype=flat.dtype)
        elif format == "peft":
            base, suffixes = f"unet.{name}", ("lora_A.weight", "lora_B.weight")
        else:
            raise ValueError(
                f"A LoRA is written in the format 'kohya' (ComfyUI) or 'peft' (diffusers), found {format!r}."
            )
        for suffix, factor in zip(suffixes, (down, up), strict=True):
            tensors[f"{base}.{suffix}"] = factor.clone(memory_format=torch.contiguous_format)
    return tensors


def save_lora(
    path: str | Path,
    flat: Tensor,
    layout: LoRALayout,
    format: Format = "kohya",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a flat LoRA ``(numel,)`` as a safetensors file, atomically; ``metadata`` says what made it."""
    tensors = {name: tensor.cpu() for name, tensor in lora_state_dict(flat, layout, format).items()}
    write_tensors(path, tensors, metadata)
