"""The Fréchet distance between two sets of features (Heusel et al., arXiv 1706.08500, equation 6)."""

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of Gaussians with the features' means and covariances.

    With centered features X (n, width) / √(n − 1), Σ = XᵀX, and the eigenvalues of Σ₁Σ₂ are the squared singular values
    of X₁X₂ᵀ. The trace of the root is thus that matrix's nuclear norm: no root of a covariance, nothing imaginary, and
    with fewer images than features many times faster. The distance of samples is biased upward, the more the fewer
    images there are: compare only sets of equal numbers.

    Args:
        first: (n, width).
        second: (m, width).

    Raises:
        ValueError: Widths differ, a set has fewer than two rows, or a value is not finite.
    """
    check_features(first, second)
    (mean, rows), (other_mean, other_rows) = _centered(first), _centered(second)
    root = torch.linalg.svdvals(_compact(rows) @ _compact(other_rows).T).sum()
    distance = (mean - other_mean).square().sum() + rows.square().sum() + other_rows.square().sum() - 2.0 * root
    return max(0.0, float(distance))  # rounding makes equal sets' slightly negative


def check_features(first: Tensor, second: Tensor) -> None:
    """Refuse features that no distance is defined for.

    Raises:
        ValueError: See `frechet_distance`.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"expected features (images, width) of one width, found {tuple(first.shape)}, {tuple(second.shape)}"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError(f"expected two images or more in each set, found {len(first)} and {len(second)}")
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError("features hold NaN or infinite values")


def _centered(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (width,) and centered rows (n, width) / √(n − 1), in float64."""
    rows = features.double().cpu()
    mean = rows.mean(0)
    return mean, (rows - mean) / (len(rows) - 1) ** 0.5


def _compact(rows: Tensor) -> Tensor:
    """Return at most `width` rows with the same covariance."""
    return rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows, mode="r").R
