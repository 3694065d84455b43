"""Sampling LoRA latents with diffusers' schedulers.

The paper samples by diffusion; guidance, the average of several samples, latent scale and temperature are our choice.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .config import SamplingConfig
from .noise_schedule import make_scheduler
from .row_checks import check_rows

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy, timesteps, conditions) → x0, as `DiT` has it: consecutive latents may share a timestep and a condition."""
StepCallback = Callable[[int, int], None]
"""Called with (step, steps)."""


@torch.no_grad()
def sample(
    denoise: Denoise,
    condition: Tensor,
    null: Tensor,
    shape: tuple[int, int],
    config: SamplingConfig,
    generator: torch.Generator | Sequence[torch.Generator],
    callback: StepCallback | None = None,
) -> Tensor:
    """Sample latents for conditions.

    All samples of all people run in one batch and are averaged per person; then the latent scale is applied, from
    latent zero, which is the mean of the training latents. The latents stay in float32 between steps, whatever the
    network computes in.

    Samples of a person hardly differ, and their averages less. The temperature makes candidates differ: at last it adds
    normal noise, at 1 with the standard deviation of the training latents, which is 1, too. At 0 none is drawn.

    Args:
        denoise: The network.
        condition: (people, condition_width).
        null: (condition_width,), the condition of guidance.
        shape: Tokens and width of a latent.
        config: The settings.
        generator: One for all, or one for each condition, so that a person's latent is the same as when sampled alone.
            Noise is drawn on the generator's device, so that a seed means the same LoRA on every device.
        callback: Called before each step; it may raise to interrupt.

    Returns:
        Latents (people, tokens, width) float32, or float64 if the conditions are.

    Raises:
        ValueError: There is no condition, one holds NaN, or the number of generators fits neither one nor all.
    """
    check_rows("Conditions", condition, ("people", "width"))
    if generator is None:
        raise ValueError("A torch.Generator draws the noise, or one for each condition; found None.")
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) not in (1, len(condition)):
        raise ValueError(f"One generator, or one per condition: found {len(generators)} for {len(condition)}.")
    exact = torch.promote_types(condition.dtype, torch.float32)

    def noise(count: int) -> Tensor:
        each = (count // len(generators), *shape)
        drawn = torch.cat([torch.randn(each, generator=g, device=g.device, dtype=torch.float32) for g in generators])
        return drawn.to(condition.device, exact)

    latents = noise(len(condition) * config.samples)
    for step, (state, _) in enumerate(trajectory(denoise, condition, null, latents, config)):
        if callback and step < config.steps:
            callback(step, config.steps)
        latents = state
    mean: Tensor = latents.unflatten(0, (len(condition), config.samples)).mean(1)
    scaled = config.latent_scale * mean
    return scaled + config.temperature * noise(len(condition)) if config.temperature else scaled


@torch.no_grad()
def trajectory(
    denoise: Denoise, condition: Tensor, null: Tensor, noise: Tensor, config: SamplingConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Follow the latents through the steps of sampling.

    A step is computed when its result is asked for, so leaving early saves the rest. The average of samples,
    `config.latent_scale` and `config.temperature` are left to the caller.

    Args:
        denoise: The network.
        condition: (people, condition_width).
        null: (condition_width,), the condition of guidance.
        noise: (people · config.samples, tokens, width), samples of a person side by side; the latents keep its dtype.
        config: The settings.

    Yields:
        Latents and timestep before each step; at last the samples and timestep 0.
    """
    scheduler = make_scheduler(config.scheduler, config.steps, condition.device)
    guided, latents = config.guidance_scale != 1.0, noise
    conditions = torch.cat([condition, null.expand_as(condition)]) if guided else condition
    for timestep in scheduler.timesteps:
        yield latents, timestep
        noisy = latents.to(condition.dtype)
        noisy = torch.cat([noisy, noisy]) if guided else noisy
        clean = denoise(noisy, timestep.expand(len(conditions)), conditions).to(latents.dtype)
        if guided:
            with_condition, without = clean.chunk(2)
            clean = guide(with_condition, without, config.guidance_scale)
        latents = scheduler.step(clean, timestep, latents).prev_sample
    yield latents, torch.zeros_like(scheduler.timesteps[0])


def guide(with_condition: Tensor, without: Tensor, scale: float) -> Tensor:
    """Apply classifier-free guidance whose norm is never above that of the conditional prediction.

    The distance from the average person is set by the latent scale: a guided prediction that grows as well soon leaves
    what the LAE's decoder was trained on. After the rescaled guidance of Lin et al. (2023, arXiv 2305.08891), here
    with norms in place of standard deviations and in full.

    Args:
        with_condition: x0 predicted with the condition, (batch, tokens, width).
        without: x0 predicted with the null condition, of the same shape.
        scale: 1 gives `with_condition`, 0 `without`, up to the norm.
    """
    guided = without + scale * (with_condition - without)
    norms = [x.flatten(1).norm(dim=1).clamp_min(1e-12) for x in (with_condition, guided)]
    factors: Tensor = (norms[0] / norms[1]).clamp_max(1.0)
    return guided * factors[:, None, None]
