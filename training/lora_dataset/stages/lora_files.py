"""LoRA files of any naming and rank, read as LoRAs of one layout.

Names of kohya, PEFT, diffusers and ldm are read. Another rank is brought to the layout's by an SVD of ΔW if that loses
nothing; otherwise the file is refused unless the best approximation is allowed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.files import read_tensors
from difflora_core.lora.canonical_form import align, change_rank
from difflora_core.lora.file_formats import SUFFIXES, read_lora
from difflora_core.lora.layout import LoRALayout

TEXT_ENCODER = re.compile(r"^(lora_te\d*_|(base_model\.model\.)?text_encoder(_\d)?\.|te\d?_|clip_[lg]\.)")
OTHER_METHODS = ("dora_scale", "hada_w1_a", "lokr_w1", "lokr_w1_a", "oft_blocks", "lora_mid.weight", "diff", "diff_b")
TINY = torch.finfo(torch.float64).tiny
TOLERANCE = 1e-6
"""Relative error of ΔW, at least, that counts as none."""


@dataclass(frozen=True)
class ImportedLoRA:
    """A LoRA file, read as a LoRA of one layout."""

    lora: Tensor
    """(numel,) float32."""
    rank: int
    """Of the file, the highest of its modules."""
    lost_energy: float
    """Share of ‖ΔW‖² that the layout's rank cannot represent."""
    text_tensors: int
    """Tensors of text encoders that were left out."""
    other_modules: int
    """Modules of the U-Net outside the layout that were left out."""
    other_energy: float
    """Their share of ‖ΔW‖²."""
    metadata: Mapping[str, str]
    """Of the file."""


def import_lora(
    path: str | Path,
    layout: LoRALayout,
    approximate: bool = False,
    leave_out_text_encoder: bool = False,
    leave_out_other_layers: bool = False,
    start: Tensor | None = None,
) -> ImportedLoRA:
    """Read a LoRA file of any naming and rank as a LoRA of `layout`.

    Args:
        path: Of the file.
        layout: Of the result.
        approximate: Take the best approximation where ΔW has a higher rank than the layout.
        leave_out_text_encoder: Drop what the file changes in the text encoders, which is a part of its effect.
        leave_out_other_layers: Drop what the file changes in layers outside the layout (kohya's trainer always has
            proj_in and proj_out), as long as it has the whole layout.
        start: A shared start (numel,) towards whose factors those of the file are rotated; ΔW is preserved.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a safetensors file, a LoRA of another base model or of other layers (the first that
            differs is named), of another kind (DoRA, LoHa …), changes text encoders, holds weights that are not finite,
            or has too high a rank.
    """
    tensors, metadata = read_tensors(path)
    tensors, text = _without_text_encoders(tensors, leave_out_text_encoder)
    _check_method(tensors)
    others: dict[str, Tensor] = {}
    if leave_out_other_layers:
        known = {known for name in layout.names for known in layout.base.known_names(name)}
        others = {key: tensor for key, tensor in tensors.items() if _split(key)[0] not in known}
        tensors = {key: tensor for key, tensor in tensors.items() if key not in others}
    state, rank = _one_rank(tensors)
    source = replace(layout, rank=rank)
    lora, difference = change_rank(_read(state, source), source, layout)
    lost = float(difference) ** 2
    rounding = max((torch.finfo(t.dtype).eps for t in tensors.values() if t.is_floating_point()), default=TOLERANCE)
    if float(difference) > max(TOLERANCE, rounding) and not approximate:
        raise ValueError(
            f"The LoRA has rank {rank} and the store rank {layout.rank}, which would lose {lost:.3%} of the change's "
            "energy; allow the approximation, or choose a store of higher rank."
        )
    lora = lora if start is None else align(lora, start, layout)
    outside, inside = (_energy(_modules(part), part) for part in (others, state))
    share = outside / max(outside + inside, TINY)
    return ImportedLoRA(lora, rank, lost, len(text), len(_modules(others)), share, metadata)


def _without_text_encoders(tensors: Mapping[str, Tensor], allowed: bool) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without those of text encoders, and the keys of these."""
    text = [key for key in tensors if TEXT_ENCODER.match(key)]
    if text and not allowed:
        raise ValueError(
            f"The LoRA changes text encoders too ({len(text)} tensors, first {text[0]}), which a store of U-Net LoRAs "
            "cannot hold; they can be left out, which changes the LoRA's effect."
        )
    return {key: tensor for key, tensor in tensors.items() if key not in set(text)}, text


def _check_method(tensors: Mapping[str, Tensor]) -> None:
    other = next((key for key in tensors if key.split(".", 1)[-1].endswith(OTHER_METHODS)), None)
    if other is not None:
        raise ValueError(
            f"{other} belongs to another method than LoRA (DoRA, LoHa, LoKr, OFT, LoCon …): not supported."
        )


def _read(state: Mapping[str, Tensor], layout: LoRALayout) -> Tensor:
    try:
        return read_lora(state, layout)
    except ValueError as error:
        if "NaN or infinite" in str(error):
            raise
        raise ValueError(
            f"It does not fit the store's {len(layout.modules)} modules, as a LoRA of another base model or for other "
            f"layers would: {error}"
        ) from error


def _split(key: str) -> tuple[str, str | None]:
    """A key's module and the role of the tensor in it: down, up, alpha, or None where the ending is unknown."""
    suffix = next((suffix for suffix in SUFFIXES if key.endswith(f".{suffix}")), None)
    return (key, None) if suffix is None else (key.removesuffix(f".{suffix}"), SUFFIXES[suffix])


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Keys by module and role."""
    modules: dict[str, dict[str, str]] = {}
    for key in tensors:
        name, role = _split(key)
        if role is not None:
            modules.setdefault(name, {})[role] = key
    return modules


def _energy(modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, Tensor]) -> float:
    """Sum of ‖ΔW‖² over modules, convolutions as matrices: ‖BA‖² = Σ (BᵀB) ∘ (AAᵀ)."""
    total = 0.0
    for keys in modules.values():
        if {"down", "up"} <= keys.keys():
            down, up = (tensors[keys[role]].double().flatten(1) for role in ("down", "up"))
            scale = float(tensors[keys["alpha"]]) / len(down) if "alpha" in keys else 1.0
            total += scale**2 * float(((up.mT @ up) * (down @ down.mT)).sum())
    return total


def _one_rank(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The tensors with alpha / rank folded into the up factors and all modules brought to the highest rank by zeros.

    What does not look like a pair of factors stays as it is: `read_lora` names it.
    """
    state, pairs = dict(tensors), []
    for keys in _modules(tensors).values():
        if {"down", "up"} <= keys.keys():
            down, up = tensors[keys["down"]], tensors[keys["up"]]
            if down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1] > 0:
                pairs.append(keys)
    rank = max((len(tensors[keys["down"]]) for keys in pairs), default=1)
    for keys in pairs:
        down, up = tensors[keys["down"]].float(), tensors[keys["up"]].float()
        own = len(down)
        if "alpha" in keys and tensors[keys["alpha"]].numel() == 1:
            up = up * (state.pop(keys["alpha"]).float().reshape(()) / own)
        state[keys["down"]], state[keys["up"]] = F.pad(down, (0, 0, 0, rank - own)), F.pad(up, (0, rank - own))
    return state, rank
