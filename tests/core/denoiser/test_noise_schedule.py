"""The noise schedule of LoRA latents."""

import pytest
import torch

from difflora_core.denoiser.config import SCHEDULERS, TIMESTEPS
from difflora_core.denoiser.noise_schedule import NoiseSchedule, draw_timesteps, make_scheduler, set_steps


def test_schedule_goes_from_clean_to_noise():
    schedule = NoiseSchedule()
    assert schedule.alphas_cumprod[0] > 0.999
    assert schedule.alphas_cumprod[-1] < 1e-3
    clean, noise = torch.ones(1, 2, 2), torch.zeros(1, 2, 2)
    torch.testing.assert_close(
        schedule.add_noise(clean, noise, torch.tensor([500])), clean * schedule.alphas_cumprod[500].sqrt()
    )


def test_noise_is_added_as_the_sampler_expects_it():
    generator, timesteps = torch.Generator().manual_seed(0), torch.tensor([0, 300, 999])
    clean, noise = torch.randn(2, 3, 4, 5, generator=generator)
    expected = make_scheduler("ddim").add_noise(clean, noise, timesteps)
    torch.testing.assert_close(NoiseSchedule().add_noise(clean, noise, timesteps), expected)


def test_min_snr_weight_is_capped():
    schedule, steps = NoiseSchedule(), torch.tensor([0, 999])
    weights = schedule.weight(steps, 5.0)
    assert weights[0] == 5.0
    assert weights[1] < 1e-3
    assert schedule.weight(steps, None).tolist() == [1.0, 1.0]


def test_a_timestep_bias_draws_more_noise():
    even = draw_timesteps(4000, torch.Generator().manual_seed(0)).float().mean()
    leaning = draw_timesteps(4000, torch.Generator().manual_seed(0), 2.0).float().mean()
    assert 480 < even < 520
    assert 640 < leaning < 690


def test_an_unknown_scheduler_is_refused():
    with pytest.raises(ValueError, match="Schedulers are ddim, dpmpp_2m, unipc, found 'euler'"):
        make_scheduler("euler")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_there_are_as_many_timesteps_as_steps(name):
    """Diffusers' spacing has one more, at timestep -1, for 61, 103, 457 and 59 other numbers."""
    scheduler = make_scheduler(name)
    for steps in (1, 20, 60, 61, 62, 103, 457, 999, TIMESTEPS):
        set_steps(scheduler, steps, torch.device("cpu"))
        timesteps = scheduler.timesteps.tolist()
        assert (len(timesteps), timesteps[0]) == (steps, TIMESTEPS - 1)
        assert timesteps == sorted(set(timesteps), reverse=True)
        assert timesteps[-1] >= 0
