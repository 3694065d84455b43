"""Other factors of the same weight change ΔW = up · down: canonical form, another rank, alignment to a shared start.

For any invertible R, (up R⁻¹)(R down) is the same ΔW, so that the factors of LoRAs trained apart can't be compared
weight by weight. Teachers that were trained from one shared start need none of this, and lose by it: there the raw
factors are comparable already. For LoRAs of other origin `canonical` picks one pair of factors for every ΔW, and
`align` the pair closest to a shared start, which is better where there is one.

ΔW is never built: a thin QR of both factors leaves an SVD of rank × rank, O((in + out) · rank²) per module. Modules of
one shape, and all people, run as one batch; the arithmetic is float64.
"""

from dataclasses import replace

import torch
from torch import Tensor

from .layout import LoRALayout


def thin_svd(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the SVD of up · down.

    Signs: the largest entry of every row of `right`, by magnitude, is positive. Vectors of equal singular values are
    determined up to a rotation among them only.

    Args:
        down: (..., rank, in).
        up: (..., out, rank).

    Returns:
        In float64 left (..., out, k), values (..., k) in descending order and right (..., k, in), where
        k = min(rank, in, out).
    """
    right_basis, right_core = torch.linalg.qr(down.double().mT)  # (..., in, k), (..., k, rank)
    left_basis, left_core = torch.linalg.qr(up.double())  # (..., out, k), (..., k, rank)
    left, values, right = torch.linalg.svd(left_core @ right_core.mT, full_matrices=False)
    left, right = left_basis @ left, right @ right_basis.mT
    largest = right.gather(-1, right.abs().argmax(-1, keepdim=True))  # (..., k, 1)
    signs = torch.where(largest < 0, -1.0, 1.0).to(right)
    return left * signs.mT, values, right * signs


def balanced_factors(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the best approximation of up · down of a rank.

    Args:
        down: (..., any rank, in).
        up: (..., out, any rank).
        rank: Of the approximation.

    Returns:
        In float64 down (..., rank, in) = √S Vᵀ and up (..., out, rank) = U √S, rows of zeros where ΔW has a lower
        rank; and the energy ‖lost‖² (...,) of what is left out.
    """
    left, values, right = thin_svd(down, up)
    lost = values[..., rank:].square().sum(-1)
    roots = values[..., :rank].sqrt()
    missing = rank - roots.shape[-1]
    new_down = torch.nn.functional.pad(roots[..., :, None] * right[..., :rank, :], (0, 0, 0, missing))
    new_up = torch.nn.functional.pad(left[..., :, :rank] * roots[..., None, :], (0, missing))
    return new_down, new_up, lost


def canonical(flat: Tensor, layout: LoRALayout) -> Tensor:
    """Compute the canonical factors of LoRAs (..., numel), of the same shape and dtype.

    They are those of a thin SVD of ΔW with the square root of the singular values on either side, descending, signs as
    in `thin_svd`. ΔW is kept; equal ΔW get equal factors, as far as its singular values differ.

    Raises:
        ValueError: The LoRAs have another layout.
    """
    layout.check(flat)
    result = torch.empty_like(flat)
    for downs, ups in layout.by_shape():
        down, up, _ = balanced_factors(flat[..., downs], flat[..., ups], layout.rank)
        result[..., downs], result[..., ups] = down.to(flat.dtype), up.to(flat.dtype)
    return result


def change_rank(flat: Tensor, layout: LoRALayout, target: LoRALayout) -> tuple[Tensor, Tensor]:
    """Change the rank of LoRAs.

    To a higher rank the factors stay as they are, with rows of zeros behind them: error 0. To a lower rank they become
    the balanced factors of the truncated SVD: the best approximation, exact if no module's ΔW has a higher rank.

    Args:
        flat: (..., numel).
        layout: Their layout.
        target: The layout of the same modules with another rank.

    Returns:
        LoRAs (..., target.numel), and the relative error ‖ΔW' − ΔW‖ / ‖ΔW‖ (...,) float64 over all modules together.

    Raises:
        ValueError: The layouts have other modules; the first that differs is named.
    """
    layout.check(flat)
    if (difference := replace(target, rank=layout.rank).difference(layout)) is not None:
        raise ValueError(f"The rank can be changed between layouts of the same modules only: {difference}.")
    people = flat.shape[:-1]
    result = flat.new_zeros(*people, target.numel)
    lost, whole = (torch.zeros(people, dtype=torch.float64, device=flat.device) for _ in range(2))
    for (downs, ups), (new_downs, new_ups) in zip(layout.by_shape(), target.by_shape(), strict=True):
        if target.rank >= layout.rank:
            result[..., new_downs[:, : layout.rank]] = flat[..., downs]
            result[..., new_ups[:, :, : layout.rank]] = flat[..., ups]
            continue
        down, up, left_out = balanced_factors(flat[..., downs], flat[..., ups], target.rank)
        result[..., new_downs], result[..., new_ups] = down.to(flat.dtype), up.to(flat.dtype)
        kept = down.square().sum(-1).square().sum((-2, -1))  # rows of down have length √S
        lost, whole = lost + left_out.sum(-1), whole + left_out.sum(-1) + kept
    return result, (lost / whole.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()


def align(flat: Tensor, start: Tensor, layout: LoRALayout) -> Tensor:
    """Turn each module's factors towards those of a shared start; ΔW is kept.

    Orthogonal Procrustes: down' = s R down and up' = up Rᵀ / s with the rotation R that brings down' closest to the
    start's down, and the scale s that gives both the same Frobenius norm. A module whose down is zero stays as it is.

    Args:
        flat: LoRAs (..., numel).
        start: (numel,).
        layout: Their layout.

    Returns:
        (..., numel).

    Raises:
        ValueError: LoRAs or start have another layout.
    """
    layout.check(flat)
    if start.shape != (layout.numel,):
        raise ValueError(
            f"A start is one LoRA of {layout.numel} weights, found a tensor of shape {tuple(start.shape)}."
        )
    result = torch.empty_like(flat)
    for downs, ups in layout.by_shape():
        down, up, goal = flat[..., downs].double(), flat[..., ups].double(), start[downs].double()
        left, _, right = torch.linalg.svd(goal @ down.mT)  # (..., modules, rank, rank)
        rotation = left @ right
        size, wanted = (factor.square().sum((-2, -1), keepdim=True).sqrt() for factor in (down, goal))
        scale = torch.where((size > 0) & (wanted > 0), wanted / size.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
        rotation = torch.where(size > 0, rotation, torch.eye(layout.rank, dtype=rotation.dtype, device=rotation.device))
        result[..., downs] = (scale * (rotation @ down)).to(flat.dtype)
        result[..., ups] = (up @ rotation.mT / scale).to(flat.dtype)
    return result
