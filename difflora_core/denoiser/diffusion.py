"""Diffusion over LoRA latents: the noise schedule, the x0 loss, and sampling through diffusers' schedulers.

The paper adds noise to the LoRA latent and lets the network predict the clean latent itself, trained with a
reconstruction loss. The cosine schedule, min-SNR weighting, guidance, averaging and latent scale are our choice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

from .dit import DiT

TIMESTEPS = 1000
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "timestep_spacing": "trailing"}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "timestep_spacing": "trailing"}),
    "unipc": (UniPCMultistepScheduler, {"timestep_spacing": "trailing"}),
}

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
StepCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class SamplingConfig:
    """Recommended sampling, stored in the checkpoint; chosen on validation people.

    steps: 1 to 1000. guidance_scale: 0 is the average person's condition, 1 no guidance; anything else takes twice the
    work. Guidance turns a prediction, the latent scale changes its length. samples: latents drawn and averaged. latent_scale: distance
    from the average person, 1 as predicted; it undoes the shrinkage of a mean prediction.
    Raises ValueError for settings outside what they can be.
    """

    steps: int = 20
    guidance_scale: float = 1.0
    scheduler: str = "ddim"
    samples: int = 4
    latent_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"Schedulers are {', '.join(SCHEDULERS)}, found {self.scheduler!r}.")
        for name, kind in (
            ("steps", Integral),
            ("samples", Integral),
            ("guidance_scale", Real),
            ("latent_scale", Real),
        ):
            if not isinstance(getattr(self, name), kind):
                what = "a whole number" if kind is Integral else "a number"
                raise ValueError(f"{name} is {what}, found {getattr(self, name)!r}.")
        if not 1 <= self.steps <= TIMESTEPS:
            raise ValueError(f"Sampling takes 1 to {TIMESTEPS} steps, found {self.steps}: 20 are plenty.")
        if self.samples < 1:
            raise ValueError(f"At least 1 sample is drawn, found {self.samples}.")
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(
                f"The guidance scale is 0 or more, found {self.guidance_scale}: 1 is none, below 0 would lead away "
                "from the person."
            )
        if not math.isfinite(self.latent_scale):
            raise ValueError(f"The latent scale is a finite number, found {self.latent_scale}.")


def make_scheduler(name: str) -> DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler:
    """A diffusers scheduler over 1000 timesteps of the cosine schedule with x0 prediction."""
    if name not in SCHEDULERS:
        raise ValueError(f"Schedulers are {', '.join(SCHEDULERS)}, found {name!r}.")
    scheduler, options = SCHEDULERS[name]
    return scheduler(
        num_train_timesteps=TIMESTEPS, beta_schedule="squaredcos_cap_v2", prediction_type="sample", **options
    )


class NoiseSchedule(nn.Module):
    """Forward process: x_t = √ᾱ_t · x0 + √(1 − ᾱ_t) · ε with the cosine schedule."""

    alphas_cumprod: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alphas_cumprod", make_scheduler("ddim").alphas_cumprod, persistent=False)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """clean, noise: (batch, tokens, width). timesteps: (batch,) integers."""
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1)
        return alphas.sqrt() * clean + (1 - alphas).sqrt() * noise

    def weight(self, timesteps: Tensor, min_snr_gamma: float | None) -> Tensor:
        """Loss weight (batch,) of an x0 prediction: min(SNR, γ) (Hang et al. 2023), or 1 without γ."""
        if min_snr_gamma is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        alphas = self.alphas_cumprod[timesteps]
        return (alphas / (1 - alphas)).clamp_max(min_snr_gamma)


def draw_timesteps(count: int, generator: torch.Generator, timestep_bias: float = 1.0) -> Tensor:
    """Timesteps (count,) int64. `timestep_bias` > 1 draws high noise more often: there the person is decided."""
    uniform = torch.rand(count, generator=generator)
    return (uniform.pow(1.0 / timestep_bias) * TIMESTEPS).long().clamp_max(TIMESTEPS - 1)


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
    """Latents (people, tokens, width) float32 for conditions (people, condition_width).

    denoise(noisy, timesteps, condition) → x0: a `DiT`, whose modulations are computed ahead, or any function of one
    condition a row. null: (condition_width,), the condition of guidance. All samples of all people run in one batch and
    are averaged per person; then the latent scale is applied, from latent zero, which is the mean of the training latents.
    generator: one for all, or one per condition, so that a row comes out as it would alone. Noise is drawn on the
    generator's device, so that a seed means the same LoRA on every device, and the latents stay in float32 between
    steps, whatever the network computes in. callback(step, steps) is called before each step and may raise to
    interrupt.
    Raises ValueError for conditions that are none or hold NaN, or another number of generators.
    """
    check_rows("Conditions", "(people, width)", condition)
    if generator is None:
        raise ValueError("A torch.Generator draws the noise, or one for each condition; found None.")
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if not generators or len(condition) % len(generators):
        raise ValueError(f"One generator, or one per condition: found {len(generators)} for {len(condition)}.")
    each = (len(condition) * config.samples // len(generators), *shape)
    exact = torch.promote_types(condition.dtype, torch.float32)
    noise = torch.cat([torch.randn(each, generator=g, device=g.device) for g in generators])
    latents = noise.to(condition.device, exact)
    for step, (state, _) in enumerate(trajectory(denoise, condition, null, latents, config)):
        if callback and step < config.steps:
            callback(step, config.steps)
        latents = state
    mean = latents.unflatten(0, (len(condition), config.samples)).mean(1)
    return config.latent_scale * mean


@torch.no_grad()
def trajectory(
    denoise: Denoise, condition: Tensor, null: Tensor, noise: Tensor, config: SamplingConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a sampler goes through: before each step (latents, timestep), in the end (the samples, timestep 0).

    denoise, null: see `sample`. condition: (people, condition_width). noise: (people · config.samples, tokens, width),
    samples of a person side by side; the latents keep its dtype. A step is computed when its result is asked for, so
    whoever leaves early has paid for no more. `config.latent_scale` and the average of samples are left to the caller.
    """
    scheduler = make_scheduler(config.scheduler)
    scheduler.set_timesteps(config.steps, device=condition.device)
    guided, latents = config.guidance_scale != 1.0, noise
    both = torch.cat([condition, null.expand_as(condition)]) if guided else condition
    predictions = _predictions(denoise, scheduler.timesteps, both, config.samples)
    for timestep, predict in zip(scheduler.timesteps, predictions, strict=True):
        yield latents, timestep
        noisy = latents.to(condition.dtype)
        clean = predict(torch.cat([noisy, noisy]) if guided else noisy).to(latents.dtype)
        if guided:
            with_condition, without = clean.chunk(2)
            clean = _guided(with_condition, without, config.guidance_scale)
        latents = scheduler.step(clean, timestep, latents).prev_sample
    yield latents, torch.zeros_like(scheduler.timesteps[0])


def _guided(with_condition: Tensor, without: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance that is never further from the average person than the prediction itself.

    Distance is the latent scale's business: a guided prediction that grows as well soon leaves what the LAE's decoder knows.
    After the rescaled guidance of Lin et al. (2023, arXiv 2305.08891), here with lengths and in full.
    """
    guided = without + scale * (with_condition - without)
    lengths = [x.flatten(1).norm(dim=1).clamp_min(1e-12) for x in (with_condition, guided)]
    return guided * (lengths[0] / lengths[1]).clamp_max(1.0)[:, None, None]


def _predictions(
    denoise: Denoise, timesteps: Tensor, conditions: Tensor, copies: int
) -> Iterator[Callable[[Tensor], Tensor]]:
    """For each timestep the function noisy → x0; `copies` consecutive rows of noisy share a condition."""
    if isinstance(denoise, DiT):
        for modulations in denoise.modulations(timesteps, conditions, copies):
            yield partial(denoise.denoise, modulations=modulations)
        return
    rows = conditions.repeat_interleave(copies, dim=0)
    for timestep in timesteps:

        def predict(noisy: Tensor, at: Tensor = timestep) -> Tensor:
            return denoise(noisy, at.expand(len(noisy)), rows)

        yield predict


def check_rows(what: str, form: str, numbers: Tensor) -> None:
    """Raise ValueError unless there is at least one row and no NaN. what, form: name and dimensions for the error."""
    if numbers.ndim != form.count(",") + 1 or 0 in numbers.shape:
        raise ValueError(f"{what} are {form}, at least one; found {tuple(numbers.shape)}.")
    finite = numbers.flatten(1).isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"{what} hold NaN or infinite numbers, first in row {int((~finite).nonzero()[0])} of {len(numbers)}: what "
            "came before made them, or the dtype is too small for them."
        )
