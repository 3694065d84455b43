"""Losses on cases computed by hand."""

import torch

from difflora_core.losses import DeltaWeights, denoising_weight, reconstruction, weight_preserved


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


def _explicit(layout, flat):
    """ΔW of every module as one long vector (batch, …)."""
    return torch.cat([(up @ down).flatten(-2) for down, up in layout.unflatten(flat).values()], dim=-1)


def test_inner_products_without_building_delta_w(layout, loras):
    inner = DeltaWeights(layout).inner(loras[:3], loras[3:6]).sum(1)
    explicit = (_explicit(layout, loras[:3]) * _explicit(layout, loras[3:6])).sum(1)
    torch.testing.assert_close(inner, explicit)


def test_cosine_relative_to_an_origin(layout, loras):
    origin = loras[9]
    found = DeltaWeights(layout).cosine(loras[:3], loras[3:6], origin)
    a, b = (_explicit(layout, x) - _explicit(layout, origin) for x in (loras[:3], loras[3:6]))
    torch.testing.assert_close(found, torch.nn.functional.cosine_similarity(a, b))


def test_relative_error_of_a_doubled_lora_is_nine(layout, loras):
    # Both factors doubled: ΔW quadrupled, so ‖4ΔW − ΔW‖² / ‖ΔW‖² = 9
    torch.testing.assert_close(DeltaWeights(layout).relative_error(2 * loras, loras), torch.tensor(9.0))


def test_denoising_weight_turns_x0_errors_into_errors_of_noise_and_velocity():
    clean, noise, wrong, sigma = (torch.tensor(value, dtype=torch.float64) for value in (0.3, -1.1, 0.8, 0.7))
    noisy = clean + sigma * noise
    alpha = 1 / (1 + sigma.square()).sqrt()  # variance preserving: x = α·x0 + αs·ε

    def velocity(x0):
        epsilon = (noisy - x0) / sigma
        return alpha * epsilon - sigma * alpha * x0

    error = (wrong - clean).square()
    eps_error = ((noisy - wrong) / sigma - noise).square()
    v_error = (velocity(wrong) - velocity(clean)).square()
    torch.testing.assert_close(denoising_weight(sigma[None], velocity=False)[0] * error, eps_error)
    torch.testing.assert_close(denoising_weight(sigma[None], velocity=True)[0] * error, v_error)
