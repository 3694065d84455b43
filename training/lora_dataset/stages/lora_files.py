"""LoRA files of any naming and rank, read as LoRAs of one layout.

`difflora_core.lora.file_contents` reads them. Another rank is brought to the layout's by an SVD of ΔW if that loses
nothing; otherwise the file is refused unless the best approximation is allowed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.lora.canonical_form import align, change_rank
from difflora_core.lora.file_contents import LoRAContents, errors_of, read_contents, triangles
from difflora_core.lora.layout import Factors, LoRALayout

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
    other_tensors: int
    """Their tensors."""
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
        ValueError: The LoRA changes text encoders or other layers, or has too high a rank; or see `read_contents`.
    """
    contents = read_contents(path, layout)
    with errors_of(path):
        _check_left_out(contents, layout, leave_out_text_encoder, leave_out_other_layers)
    state, source = _one_rank(contents.factors, layout)
    lora, difference = change_rank(state, source, layout)
    lost = float(difference) ** 2
    if float(difference) > max(TOLERANCE, contents.rounding) and not approximate:
        raise ValueError(
            f"{path}: The LoRA has rank {source.rank} and the store rank {layout.rank}, which would lose {lost:.3%} of "
            "the change's energy; --approximate keeps the nearest LoRA of that rank, or take a store of higher rank."
        )
    small = (triangles(down.double(), up.double()) for down, up in contents.factors.values())
    inside = sum(float((up @ down).square().sum()) for down, up in small)
    return ImportedLoRA(
        lora=lora if start is None else align(lora, start, layout),
        rank=source.rank,
        lost_energy=lost,
        text_tensors=len(contents.text_encoder),
        other_modules=len(contents.other_layers),
        other_tensors=len(contents.other_tensors),
        other_energy=contents.other_norm / max(contents.other_norm + inside, TINY),
        metadata=contents.metadata,
    )


def _check_left_out(contents: LoRAContents, layout: LoRALayout, text_encoder: bool, other_layers: bool) -> None:
    """Refuse what a store of LoRAs of the layout cannot hold, unless it may be left out."""
    if contents.text_encoder and not text_encoder:
        raise ValueError(
            f"The LoRA changes text encoders too ({len(contents.text_encoder)} tensors, first "
            f"{contents.text_encoder[0]}), which a store of U-Net LoRAs cannot hold; --leave-out-text-encoder leaves "
            "them out, which changes the LoRA's effect."
        )
    if contents.other_layers and not other_layers:
        raise ValueError(
            f"The LoRA changes {len(contents.other_layers)} layers outside the {len(layout.modules)} modules of the "
            f"layout, first {next(iter(contents.other_layers))}; --leave-out-other-layers leaves them out, which "
            "changes the LoRA's effect."
        )


def _one_rank(factors: Mapping[str, Factors], layout: LoRALayout) -> tuple[Tensor, LoRALayout]:
    """Bring all modules to the highest rank by zeros; return the flat LoRA and its layout."""
    rank = max(len(down) for down, _ in factors.values())
    padded = {
        name: (F.pad(down, (0, 0, 0, rank - len(down))), F.pad(up, (0, rank - len(down))))
        for name, (down, up) in factors.items()
    }
    source = replace(layout, rank=rank)
    return source.flatten(padded), source
