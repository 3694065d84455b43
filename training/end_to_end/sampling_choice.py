"""Recommended sampling is chosen on validation people: first the steps, then guidance and latent scale together."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

from difflora_core.denoiser.diffusion import SamplingConfig
from training.engine.rounds import Figures

STEPS = (1, 4, 10, 20)
GUIDANCES = (1.0, 1.5)
LATENT_SCALES = (1.0, 1.25, 1.5)


def choose_sampling(
    look: Callable[[SamplingConfig], Figures], score: Callable[[Figures], float], worth: float, samples: int = 4
) -> tuple[SamplingConfig, dict[str, Figures]]:
    """The setting with the highest score, and the figures of all that were tried.

    look(sampling) measures on people outside the training. score: of such figures, higher is better, −inf where a
    setting is out of the question. worth: what more steps, guidance (which doubles the cost) or a higher latent scale have to
    add to be chosen; cheaper settings come first. samples: averaged in all of them but the last that is tried, which is
    for the log: one sample with latent scale 1. All this is our choice.

    Raises:
        ValueError: every setting is out of the question.
    """
    log: dict[str, Figures] = {}

    def best_of(tried: Iterable[SamplingConfig]) -> SamplingConfig | None:
        best, highest = None, -math.inf
        for sampling in tried:
            name = ", ".join(f"{key} {value}" for key, value in asdict(sampling).items())
            if name not in log:
                log[name] = look(sampling)
                told = ", ".join(f"{key} {value:.4f}" for key, value in log[name].items())
                print(f"  {name}: {told}", flush=True)
            value = score(log[name])
            if value > highest + (0.0 if best is None else worth):
                best, highest = sampling, value
        return best

    plain = SamplingConfig(guidance_scale=1.0, samples=samples, latent_scale=1.0)
    quick = best_of(replace(plain, steps=steps) for steps in STEPS) or plain
    best = best_of(
        replace(quick, guidance_scale=scale, latent_scale=latent_scale)
        for scale in GUIDANCES
        for latent_scale in LATENT_SCALES
    )
    if best is None:
        raise ValueError("No sampling is any good for the validation people: look at what was tried, above.")
    best_of([replace(best, samples=1, latent_scale=1.0)])
    return best, log
