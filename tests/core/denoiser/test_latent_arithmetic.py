"""Mixing people in latent space."""

import pytest
import torch

from difflora_core.denoiser.latent_arithmetic import blend

A, B, C = (torch.full((1, 2, 3), value) for value in (1.0, 5.0, 9.0))


def test_two_are_mixed_by_amount():
    assert torch.equal(blend([A, B], 0.0), A)
    assert torch.equal(blend([A, B], 1.0), B)
    assert torch.equal(blend([A, B], 0.25), torch.full((1, 2, 3), 2.0))


def test_more_are_averaged_and_one_is_left():
    assert torch.equal(blend([A, B, C], 0.9), B)
    assert torch.equal(blend([C]), C)


def test_latent_scale_goes_toward_the_average_person_and_beyond():
    assert torch.equal(blend([C], latent_scale=0.0), torch.zeros(1, 2, 3))
    assert torch.equal(blend([A, B], 0.5, latent_scale=2.0), torch.full((1, 2, 3), 6.0))


def test_one_candidate_goes_with_each_of_the_others():
    many = torch.stack([A[0], B[0]])
    assert torch.equal(blend([many, C], 0.5), torch.stack([B[0], torch.full((2, 3), 7.0)]))
    assert blend([many, A, C]).shape == (2, 2, 3)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\), \(1, 3, 2\)"):
        blend([A, A.mT])
    with pytest.raises(ValueError, match="same shape"):
        blend([A.expand(2, -1, -1), A.expand(3, -1, -1)])
    with pytest.raises(ValueError, match="same shape"):
        blend([])
