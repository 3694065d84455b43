"""Timesteps, targets and weights of the diffusion loss, beside diffusers and by hand."""

import pytest
import torch
from diffusers import DDPMScheduler

from difflora_core.diffusion_loss import (
    loss_target,
    min_snr_weight,
    signal_to_noise,
    stratified_positions,
    stratified_timesteps,
    x0_error_weight,
)


def test_one_timestep_from_each_part():
    timesteps = stratified_timesteps(10, 1000, torch.Generator().manual_seed(0))
    assert timesteps.dtype == torch.int64
    assert (timesteps // 100).tolist() == list(range(10))
    positions = stratified_positions(10, torch.Generator().manual_seed(0))
    assert torch.equal((positions * 1000).long(), timesteps)


def test_no_timestep_is_beyond_the_last():
    """The last draw of this seed is within 3e-5 of 1: in float32, 1023 and that is 1024."""
    generator = torch.Generator().manual_seed(66810)
    assert stratified_positions(1024, generator).max() < 1
    assert stratified_timesteps(1024, 1000, generator.manual_seed(66810)).max() == 999


def test_min_snr_weights_by_hand():
    snr = torch.tensor([0.0, 1.0, 20.0])
    assert min_snr_weight(snr, 5.0, "sample").tolist() == [0.0, 1.0, 5.0]
    assert min_snr_weight(snr, 5.0, "epsilon").tolist() == [1.0, 1.0, 0.25]
    torch.testing.assert_close(min_snr_weight(snr, 5.0, "v_prediction"), torch.tensor([0.0, 0.5, 5 / 21]))


def test_the_weights_agree_on_the_error_of_x0():
    """In terms of x0 all three are min(SNR, γ)."""
    alphas = torch.tensor([0.1, 0.5, 0.95])
    snr = signal_to_noise(alphas)
    sigmas = (1 / snr).sqrt()
    for prediction in ("epsilon", "v_prediction", "sample"):
        found = min_snr_weight(snr, 5.0, prediction) * x0_error_weight(sigmas, prediction)
        torch.testing.assert_close(found, min_snr_weight(snr, 5.0, "sample"))


def test_zero_terminal_snr_is_finite():
    assert signal_to_noise(torch.tensor([0.0, 1.0])).isfinite().all()


def test_targets_are_diffusers():
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    timesteps = torch.tensor([10, 900])
    found = loss_target("v_prediction", clean, noise, scheduler.alphas_cumprod[timesteps])
    assert torch.equal(found, scheduler.get_velocity(clean, noise, timesteps))
    assert loss_target("epsilon", clean, noise, scheduler.alphas_cumprod[timesteps]) is noise
    assert loss_target("sample", clean, noise, scheduler.alphas_cumprod[timesteps]) is clean


def test_another_prediction_is_refused():
    one = torch.ones(1)
    for function in (
        lambda: min_snr_weight(one, 5.0, "flow"),
        lambda: loss_target("flow", one, one, one),
        lambda: x0_error_weight(one, "flow"),
    ):
        with pytest.raises(ValueError, match=r"epsilon, v_prediction or sample \(x0\), found 'flow'"):
            function()


def test_x0_error_weight_turns_x0_errors_into_errors_of_noise_and_velocity():
    clean, noise, wrong, sigma = (torch.tensor(value, dtype=torch.float64) for value in (0.3, -1.1, 0.8, 0.7))
    noisy = clean + sigma * noise
    alpha = 1 / (1 + sigma.square()).sqrt()  # variance preserving: x = α·x0 + αs·ε

    def velocity(x0):
        epsilon = (noisy - x0) / sigma
        return alpha * epsilon - sigma * alpha * x0

    error = (wrong - clean).square()
    eps_error = ((noisy - wrong) / sigma - noise).square()
    v_error = (velocity(wrong) - velocity(clean)).square()
    torch.testing.assert_close(x0_error_weight(sigma[None], "epsilon")[0] * error, eps_error)
    torch.testing.assert_close(x0_error_weight(sigma[None], "v_prediction")[0] * error, v_error)
