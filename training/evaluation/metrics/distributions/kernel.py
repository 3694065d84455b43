"""The kernel distance between two sets of features (Bińkowski et al., arXiv 1801.01401, section 4)."""

import torch
from torch import Tensor

from .frechet import check_features


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Return the unbiased estimate of the squared MMD with the kernel (x·y / width + 1)³.

    Unbiased: two sets of one distribution have 0 on average, so single values may be negative. Of all rows at once; the
    paper's mean over random subsets estimates the same with more variance, and exists because of memory.

    Args:
        first: (n, width).
        second: (m, width).

    Raises:
        ValueError: Widths differ, a set has fewer than two rows, or a value is not finite.
    """
    check_features(first, second)
    x, y = first.double().cpu(), second.double().cpu()
    across = _kernel(x, y).mean()
    return float(_mean_of_pairs(x) + _mean_of_pairs(y) - 2.0 * across)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _mean_of_pairs(rows: Tensor) -> Tensor:
    """Mean kernel of different rows."""
    values = _kernel(rows, rows)
    return (values.sum() - torch.trace(values)) / (len(rows) * (len(rows) - 1))
