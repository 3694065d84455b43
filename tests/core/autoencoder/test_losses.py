"""Losses of the autoencoder on cases computed by hand."""

import math

import torch

from difflora_core.autoencoder.losses import kl, reconstruction, weight_preserved


def test_reconstruction_is_the_mean_square():
    assert reconstruction(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])) == 2.5


def test_weight_preserved_by_hand():
    # |x| = 1, 3, mean 2: factors 1.5 and 2.5; errors 1 and 2: (1.5 · 1 + 2.5 · 4) / 2
    assert weight_preserved(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, -3.0]])) == 5.75


def test_weight_preserved_of_a_zero_target_is_the_mean_square():
    assert weight_preserved(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)) == 5.0


def test_weight_preserved_gradient_by_hand():
    prediction = torch.tensor([[2.0, -1.0]], requires_grad=True)
    weight_preserved(prediction, torch.tensor([[1.0, -3.0]])).backward()
    assert prediction.grad is not None
    assert prediction.grad.tolist() == [[1.5, 5.0]]


def test_kl_by_hand():
    # μ = 2, σ² = 1: 2; μ = 0, σ² = e: (e − 1 − 1) / 2; their mean
    found = kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor((2 + (math.e - 2) / 2) / 2))


def test_kl_of_the_unit_gaussian_is_zero():
    assert kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_kl_gradient_by_hand():
    mean, log_variance = torch.tensor([3.0, 0.0], requires_grad=True), torch.tensor([0.0, math.log(5)])
    log_variance.requires_grad_()
    kl(mean, log_variance).backward()
    torch.testing.assert_close(mean.grad, torch.tensor([1.5, 0.0]))
    torch.testing.assert_close(log_variance.grad, torch.tensor([0.0, 1.0]))
