"""Errors of tensors with a row for each person."""

import pytest
import torch

from difflora_core.denoiser.row_checks import check_rows


def test_rows_of_finite_numbers_pass():
    check_rows("Latents", torch.zeros(2, 3, 4), ("people", "tokens", "width"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(3), r"Latents are \(people, width\), at least one; found \(3,\)"),
        (torch.zeros(0, 3), r"at least one; found \(0, 3\)"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), "NaN or infinite values, first in row 1 of 2"),
    ],
)
def test_other_rows_are_described(rows, message):
    with pytest.raises(ValueError, match=message):
        check_rows("Latents", rows, ("people", "width"))
