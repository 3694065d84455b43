"""The noise schedule of LoRA latents."""

import pytest
import torch
from diffusers import DDIMScheduler

from difflora_core.denoiser.config import SCHEDULERS, TIMESTEPS
from difflora_core.denoiser.noise_schedule import NoiseSchedule, draw_timesteps, make_scheduler


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
    expected = make_scheduler("ddim", TIMESTEPS).add_noise(clean, noise, timesteps)
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
        make_scheduler("euler", 20)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_there_are_as_many_timesteps_as_steps(name):
    """Diffusers' spacing has one more, at timestep -1, for 61, 103, 457 and 59 other numbers."""
    for steps in (1, 20, 60, 61, 62, 103, 457, 999, TIMESTEPS):
        timesteps = make_scheduler(name, steps).timesteps.tolist()
        assert (len(timesteps), timesteps[0]) == (steps, TIMESTEPS - 1)
        assert timesteps == sorted(set(timesteps), reverse=True)
        assert timesteps[-1] >= 0


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 13, 15, 17, 20, 50, 61, 170, 501, 666])
def test_a_step_leaves_the_noise_of_the_next_timestep(name, steps):
    """A network that always predicts the right latent is followed along the noise schedule, and to its end."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 5, 4, generator=generator)
    schedule, scheduler, state = NoiseSchedule(), make_scheduler(name, steps), noise
    for timestep in scheduler.timesteps:
        expected = schedule.add_noise(clean, noise, timestep[None])
        torch.testing.assert_close(state, expected, atol=2e-4, rtol=0)  # 1e-4 is left of the latent at timestep 999
        state = scheduler.step(clean, timestep, state).prev_sample
    assert torch.equal(state, clean)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 4, 6, 17])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_scheduler_keeps_the_latents_dtype(name, steps, dtype):
    clean, state = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    scheduler = make_scheduler(name, steps)
    for timestep in scheduler.timesteps:
        state = scheduler.step(clean, timestep, state).prev_sample
        assert state.dtype == dtype
    torch.testing.assert_close(state, clean)


@pytest.mark.parametrize("steps", [steps for steps in range(1, TIMESTEPS + 1) if TIMESTEPS % steps == 0])
def test_ddim_is_diffusers_own_where_its_steps_are_equal(steps):
    scheduler = make_scheduler("ddim", steps)
    assert isinstance(scheduler, DDIMScheduler)
    assert set(scheduler.timesteps.diff().tolist()) <= {-(TIMESTEPS // steps)}
