"""Fréchet and kernel distances against definitions and known values."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from training.evaluation.metrics.distributions.frechet import frechet_distance
from training.evaluation.metrics.distributions.kernel import kernel_distance

SIZES = [(40, 30, 8), (12, 15, 20), (9, 50, 20)]


def features(count, width, seed):
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99)).double()
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double() @ mixing + 0.1 * seed


@pytest.mark.parametrize(("first", "second", "width"), SIZES)
def test_frechet_distance_is_that_of_matrix_roots(first, second, width):
    x, y = features(first, width, 1), features(second, width, 2)
    covariances = [np.cov(rows.numpy(), rowvar=False) for rows in (x, y)]
    root = sqrtm(covariances[0] @ covariances[1])
    expected = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_of_known_gaussians():
    # Along one axis: (μ₁ − μ₂)² + (σ₁ − σ₂)²
    x = torch.tensor([[0.0], [2.0], [4.0]])  # μ 2, σ 2
    y = torch.tensor([[2.0], [5.0], [8.0]])  # μ 5, σ 3
    assert frechet_distance(x, y) == pytest.approx(9.0 + 1.0)


def test_shifting_a_set_adds_the_squared_shift():
    x = features(30, 6, 1)
    assert frechet_distance(x, x + 0.5) == pytest.approx(6 * 0.25)


def test_a_set_has_no_distance_to_itself():
    x = features(10, 2048 // 64, 1).float()
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_one_distribution_falls_with_the_number_of_images():
    x, y = (torch.randn(400, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    few, many = frechet_distance(x[:50], y[:50]), frechet_distance(x, y)
    assert few > 4 * many > 0


@pytest.mark.parametrize(("first", "second", "width"), SIZES)
def test_kernel_distance_is_the_sum_over_pairs(first, second, width):
    x, y = features(first, width, 1).numpy(), features(second, width, 2).numpy()

    def kernel(a, b):
        return (float(a @ b) / width + 1.0) ** 3

    within = [
        np.mean([kernel(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j])
        for rows in (x, y)
    ]
    expected = sum(within) - 2.0 * np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(*map(torch.from_numpy, (x, y))) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    drawn = torch.randn(200, 2, 20, 8, generator=torch.Generator().manual_seed(3))
    found = np.array([kernel_distance(*pair) for pair in drawn])
    assert abs(found.mean()) < 3 * found.std() / len(found) ** 0.5
    assert (found < 0).any()


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(3, 5), r"of one width, found \(3, 4\), \(3, 5\)"),
        (torch.zeros(3), torch.zeros(3), r"found \(3,\)"),
        (torch.zeros(1, 4), torch.zeros(3, 4), "found 1 and 3"),
        (torch.full((3, 4), torch.nan), torch.zeros(3, 4), "NaN"),
    ],
)
def test_features_without_a_distance_are_refused(distance, first, second, message):
    with pytest.raises(ValueError, match=message):
        distance(first, second)
