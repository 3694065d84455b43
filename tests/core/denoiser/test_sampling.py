"""Guidance, averaging, latent scale, temperature, interruption, and the states of a trajectory."""

from dataclasses import replace

import pytest
import torch

from difflora_core.denoiser.config import DiTConfig, SamplingConfig
from difflora_core.denoiser.dit import DiT
from difflora_core.denoiser.noise_schedule import SCHEDULERS
from difflora_core.denoiser.sampling import sample, trajectory

CONFIG = SamplingConfig(steps=4, guidance_scale=1.0, samples=1)
CONDITION = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
NULL = torch.tensor([0.5, 0.5])


def denoise(noisy, timesteps, condition):
    """A perfect denoiser: x0 is the condition, in every token."""
    assert (timesteps >= 0).all()
    return condition.repeat_interleave(len(noisy) // len(condition), dim=0)[:, None].expand(-1, 3, -1).clone()


def run(config, denoiser=denoise, seed=0, **options):
    return sample(denoiser, CONDITION, NULL, (3, 2), config, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("steps", [1, 5, 6, 15, 61, 501])
def test_a_perfect_denoiser_is_followed_to_its_answer(scheduler, steps):
    latents = run(replace(CONFIG, scheduler=scheduler, steps=steps))
    torch.testing.assert_close(latents, CONDITION[:, None].expand(-1, 3, -1), atol=1e-5, rtol=0)


def test_guidance_turns_away_from_the_null_condition_and_keeps_the_norm():
    latents = run(replace(CONFIG, guidance_scale=3.0))
    expected = NULL + 3.0 * (CONDITION - NULL)
    expected *= CONDITION.norm(dim=1, keepdim=True) / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(latents[:, 0], expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, NULL.expand(2, 2)), (0.5, (NULL + CONDITION) / 2)])
def test_guidance_below_one_goes_toward_the_average_person(scale, expected):
    torch.testing.assert_close(run(replace(CONFIG, guidance_scale=scale))[:, 0], expected, atol=0.05, rtol=0)


def test_the_latent_scale_scales_the_distance_from_the_average():
    torch.testing.assert_close(run(replace(CONFIG, latent_scale=1.5)), 1.5 * run(CONFIG))


def test_temperature_zero_draws_nothing_and_changes_no_bit():
    """As before there was one: the samples' noise, their average, the latent scale."""

    def keep(noisy, timesteps, condition):
        return 0.5 * noisy

    config, generator = SamplingConfig(3, samples=4, latent_scale=1.25, temperature=0.0), torch.Generator()
    latents = sample(keep, CONDITION, NULL, (3, 2), config, generator.manual_seed(5))
    state = generator.get_state()
    noise = torch.randn(8, 3, 2, generator=generator.manual_seed(5))
    assert torch.equal(generator.get_state(), state)
    *_, (samples, _) = trajectory(keep, CONDITION, NULL, noise, config)
    assert torch.equal(latents, 1.25 * samples.unflatten(0, (2, 4)).mean(1))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_temperature_is_the_spread_of_candidates_around_the_prediction(temperature):
    config, count = replace(CONFIG, latent_scale=1.25, temperature=temperature), 2000
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    latents = sample(denoise, CONDITION[:1].expand(count, -1), NULL, (3, 2), config, generators)
    prediction = run(replace(CONFIG, latent_scale=1.25))[0]
    torch.testing.assert_close(latents.std(0), torch.full((3, 2), temperature), rtol=0.1, atol=0)
    torch.testing.assert_close(latents.mean(0), prediction, rtol=0, atol=0.1 * temperature + 0.01)
    alone = sample(denoise, CONDITION[:1], NULL, (3, 2), config, torch.Generator().manual_seed(7))
    assert torch.equal(latents[7], alone[0])


def test_samples_are_averaged_per_person():
    def first_noise(noisy, timesteps, condition):
        seen.append(noisy)
        return noisy

    seen: list[torch.Tensor] = []
    averaged = run(replace(CONFIG, samples=5, steps=1), first_noise)
    assert seen[0].shape == (10, 3, 2)
    torch.testing.assert_close(averaged[0], seen[0][:5].mean(0), atol=1e-3, rtol=1e-3)


def test_same_seed_same_latent_bit_for_bit():
    def keep(noisy, timesteps, condition):
        return 0.5 * noisy

    assert torch.equal(run(CONFIG, keep), run(CONFIG, keep))
    assert not torch.equal(run(CONFIG, keep), run(CONFIG, keep, seed=1))


def test_a_callback_can_interrupt_before_any_step():
    seen = []

    def stop_at_third(step, steps):
        seen.append((step, steps))
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, callback=stop_at_third)
    assert seen == [(0, 4), (1, 4), (2, 4)]


@pytest.fixture
def network() -> DiT:
    torch.manual_seed(0)
    made = DiT(DiTConfig(tokens=3, latent_width=2, width=16, layers=2, heads=2, head_width=8, condition_width=2))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 17, 50, 61, 1000])
def test_any_number_of_steps_gives_finite_latents(network, scheduler, steps):
    config = SamplingConfig(steps, 2.0, scheduler, samples=2)
    seen = []
    latents = run(config, network, callback=lambda *step: seen.append(step))
    assert latents.isfinite().all()
    assert latents.abs().max() < 100
    assert seen == [(step, steps) for step in range(steps)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_samples_that_share_a_condition_are_what_each_is_with_its_own(network, guidance):
    def one_each(noisy, timesteps, condition):
        copies = len(noisy) // len(condition)
        return network(noisy, timesteps.repeat_interleave(copies), condition.repeat_interleave(copies, dim=0))

    config = SamplingConfig(5, guidance, samples=3)
    torch.testing.assert_close(run(config, network), run(config, one_each))


def test_latents_stay_exact_between_the_steps_of_a_rough_network():
    def rough(noisy, timesteps, condition):
        seen.append(noisy.dtype)
        return denoise(noisy, timesteps, condition)

    seen: list[torch.dtype] = []
    latents = sample(rough, CONDITION.bfloat16(), NULL.bfloat16(), (3, 2), CONFIG, torch.Generator().manual_seed(0))
    assert set(seen) == {torch.bfloat16}
    assert latents.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_seed_means_the_same_whatever_torchs_default_dtype(network, dtype):
    config = replace(CONFIG, samples=4, temperature=1.0)
    expected = run(config, network)
    torch.set_default_dtype(dtype)
    try:
        found = run(config, network)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_broken_conditions_are_refused_by_row():
    broken = CONDITION.clone()
    broken[1, 0] = torch.nan
    with pytest.raises(ValueError, match="Conditions hold NaN or infinite values, first in row 1 of 2"):
        sample(denoise, broken, NULL, (3, 2), CONFIG, torch.Generator())
    with pytest.raises(ValueError, match=r"at least one; found \(0, 2\)"):
        sample(denoise, CONDITION[:0], NULL, (3, 2), CONFIG, torch.Generator())


def test_without_a_generator_there_is_no_noise():
    with pytest.raises(ValueError, match=r"A torch\.Generator draws the noise"):
        sample(denoise, CONDITION, NULL, (3, 2), CONFIG, None)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_generators_are_one_or_as_many_as_conditions(count):
    conditions, generators = CONDITION.repeat(2, 1), [torch.Generator() for _ in range(count)]
    with pytest.raises(ValueError, match=f"One generator, or one per condition: found {count} for 4"):
        sample(denoise, conditions, NULL, (3, 2), CONFIG, generators)


def test_a_trajectory_begins_with_the_noise_and_ends_with_the_sample():
    noise = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    states = list(trajectory(denoise, CONDITION, NULL, noise, CONFIG))
    assert torch.equal(states[0][0], noise)
    assert [int(timestep) for _, timestep in states] == [999, 749, 499, 249, 0]
    same = sample(denoise, CONDITION, NULL, (3, 2), CONFIG, torch.Generator().manual_seed(0))
    assert torch.equal(states[-1][0], same)


def test_a_trajectory_costs_no_more_than_is_asked_for():
    calls = []

    def counted(noisy, timesteps, condition):
        calls.append(int(timesteps[0]))
        return denoise(noisy, timesteps, condition)

    states = trajectory(counted, CONDITION, NULL, torch.zeros(2, 3, 2), CONFIG)
    assert [int(next(states)[1]) for _ in range(3)] == [999, 749, 499]
    assert calls == [999, 749]
