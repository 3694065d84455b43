"""On-policy rollouts."""

import pytest
import torch

from difflora_core.denoiser.config import DiTConfig, MIFConfig, SamplingConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.denoiser.sampling import trajectory
from training.end_to_end.rollout import draw_rollout_steps, latents_of_sampling, rollout


def test_steps_are_drawn_over_the_whole_range_and_at_least_one_is_done():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_rollout_steps(50, generator) for _ in range(2000)]
    assert {steps for steps, _ in drawn} <= set(range(2, 51))
    assert min(steps for steps, _ in drawn) == 2
    assert max(steps for steps, _ in drawn) >= 48
    assert all(1 <= done < steps for steps, done in drawn)
    few = sum(steps <= 10 for steps, _ in drawn) / len(drawn)
    assert 0.4 < few < 0.6  # uniform in the logarithm: half of them are below √(2 · 51)


def test_with_a_single_step_there_is_nothing_to_do_before_it():
    assert draw_rollout_steps(1, torch.Generator().manual_seed(0)) == (1, 0)


def test_a_rollout_is_what_sampling_comes_to():
    torch.manual_seed(0)
    model = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8))
    torch.nn.init.normal_(model.dit.out.weight)
    face, image, noise = torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 2, 3)
    latents, timestep = rollout(model, (face, image), noise, 6, 3)
    condition, _ = model.mif(face, image)
    sampling = SamplingConfig(steps=6, guidance_scale=1.0, samples=1)
    states = list(trajectory(model.dit, condition.detach(), model.mif.null, noise, sampling))
    torch.testing.assert_close(latents, states[3][0], atol=1e-5, rtol=1e-5)
    assert timestep == states[3][1]
    assert not latents.requires_grad


@pytest.mark.parametrize("seed", range(4))
def test_one_person_alone_is_drawn_as_noise_or_as_a_rollout(seed):
    """Half of one person is nobody."""
    noise = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    model = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8))
    latents, timesteps = latents_of_sampling(model, (torch.ones(1, 4), torch.ones(1, 4)), noise, 10, generator)
    assert latents.shape == noise.shape
    assert (timesteps.item() == 999) == torch.equal(latents, noise)
