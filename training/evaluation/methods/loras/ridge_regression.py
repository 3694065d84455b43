"""Ridge regression (Hoerl and Kennard 1970) in closed form, its penalty chosen on people it was not fitted on."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Among which one is chosen; features have unit length."""


@dataclass(frozen=True)
class RidgeRegression:
    """A linear map with an intercept."""

    center: Tensor
    """Mean of the features (features,)."""
    weights: Tensor
    """(features, targets)."""
    offset: Tensor
    """Mean of the targets (targets,)."""

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, penalty: float) -> Self:
        """Minimize the squared error of y (n, targets) from x (n, features), plus `penalty` · |weights|²."""
        center, offset = x.mean(0), y.mean(0)
        x = x - center
        weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ (y - offset))
        return cls(center, weights, offset)

    def predict(self, x: Tensor) -> Tensor:
        """Predict (n, targets) from x (n, features)."""
        return (x - self.center) @ self.weights + self.offset


def choose_penalty(x: Tensor, y: Tensor, others: Tensor, expected: Tensor) -> float:
    """Return the penalty that predicts other people best.

    Args:
        x: Features to fit on (n, features).
        y: Targets to fit on (n, targets).
        others: Features of other people (m, features).
        expected: Their targets (m, targets).
    """

    def error(penalty: float) -> float:
        return float((RidgeRegression.fit(x, y, penalty).predict(others) - expected).square().sum())

    return min(PENALTIES, key=error)
