"""On-policy rollouts: latents that the present network itself produces while sampling, with its own errors.

Noise added to a teacher's latent is not what sampling feeds the network. A network trained on that alone trusts its
input, and its own small errors grow from step to step (exposure bias).
"""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from difflora_core.denoiser.config import TIMESTEPS, SamplingConfig
from difflora_core.denoiser.sampling import trajectory


def draw_rollout_steps(most: int, generator: torch.Generator) -> tuple[int, int]:
    """Draw how many steps a sampler has, and how many of them are done when the network is trained.

    Args:
        most: Largest number of steps.
        generator: Of the step; with sharding all processes have to draw the same.

    Returns:
        Steps in 2 … `most`, uniform in their logarithm, and steps done, at least one (none if `most` is 1).
    """
    first, second = torch.rand(2, generator=generator).tolist()
    steps = min(most, int(2 * ((most + 1) / 2) ** first)) if most > 1 else 1
    return steps, min(steps - 1, 1 + int(second * (steps - 1)))


def rollout(
    model: nn.Module, embeddings: Sequence[Tensor | None], noise: Tensor, steps: int, done: int
) -> tuple[Tensor, Tensor]:
    """Sample with the present network up to a step.

    Args:
        model: A `Denoiser`, perhaps wrapped for several processes.
        embeddings: Of face and image, (people, width) each, or None.
        noise: The initial latents (people, tokens, width).
        steps: Of the sampler.
        done: Steps to do.

    Returns:
        Latents (people, tokens, width), and the timestep of the next step.
    """
    with_condition = torch.zeros(len(noise), dtype=torch.bool, device=noise.device)

    def denoise(noisy: Tensor, timesteps: Tensor, _: Tensor) -> Tensor:
        predicted: Tensor = model(noisy, timesteps, *embeddings, with_condition)
        return predicted

    config = SamplingConfig(steps=steps, guidance_scale=1.0, samples=1)
    unused = noise.new_zeros(len(noise), 1)  # the condition is computed inside the model
    states = trajectory(denoise, unused, noise.new_zeros(1), noise, config)
    return next(islice(states, done if len(noise) else 0, None))


def latents_of_sampling(
    model: nn.Module,
    embeddings: Sequence[Tensor | None],
    noise: Tensor,
    max_steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw latents that occur in sampling: half of them pure noise, as in its first step, the others from rollouts.

    Args:
        model: See `rollout`.
        embeddings: See `rollout`.
        noise: The initial latents (people, tokens, width).
        max_steps: Most steps of a rollout's sampler.
        generator: Of the step, see `draw_rollout_steps`.

    Returns:
        Latents (people, tokens, width) and timesteps (people,).
    """
    count = len(noise)
    first = (count + int(torch.randint(2, (), generator=generator))) // 2
    steps, done = draw_rollout_steps(max_steps, generator)
    later = [e if e is None else e[first:] for e in embeddings]
    latents, timestep = rollout(model, later, noise[first:], steps, done)
    last = torch.full((first,), TIMESTEPS - 1, device=noise.device)
    return torch.cat([noise[:first], latents]), torch.cat([last, timestep.expand(count - first)])
