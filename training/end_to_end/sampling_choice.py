"""Choose the recommended sampling on validation people: first the steps, then guidance and latent scale together."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from difflora_core.denoiser.config import SamplingConfig

STEPS = (1, 4, 10, 20)
GUIDANCE_SCALES = (1.0, 1.5)
LATENT_SCALES = (1.0, 1.25, 1.5)
SAMPLES = 4
"""Averaged in all settings but the last, which is for the record: one sample with latent scale 1."""
Metrics = dict[str, float]


def choose_sampling(
    evaluate: Callable[[SamplingConfig], Metrics],
    score: Callable[[Metrics], float],
    min_improvement: float,
) -> tuple[SamplingConfig, dict[str, Metrics]]:
    """Find the settings with the highest score. The search is our choice.

    Args:
        evaluate: Measures settings on people outside the training.
        score: Of such metrics, higher is better; −inf rules settings out.
        min_improvement: What more steps, guidance (which doubles the cost) or a higher latent scale have to add to be
            chosen; cheaper settings come first.

    Returns:
        The settings, and the metrics of all that were tried.

    Raises:
        ValueError: All settings are ruled out.
    """
    tried: dict[str, Metrics] = {}

    def best_of(candidates: Iterable[SamplingConfig]) -> SamplingConfig | None:
        best, highest = None, -math.inf
        for sampling in candidates:
            if (name := sampling.name) not in tried:
                tried[name] = evaluate(sampling)
                print(f"  {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in tried[name].items()), flush=True)
            value = score(tried[name])
            if value > highest + (0.0 if best is None else min_improvement):
                best, highest = sampling, value
        return best

    plain = SamplingConfig(guidance_scale=1.0, samples=SAMPLES, latent_scale=1.0)
    quick = best_of(replace(plain, steps=steps) for steps in STEPS) or plain
    best = best_of(
        replace(quick, guidance_scale=guidance_scale, latent_scale=latent_scale)
        for guidance_scale in GUIDANCE_SCALES
        for latent_scale in LATENT_SCALES
    )
    if best is None:
        raise ValueError("All sampling settings are ruled out for the validation people: see the metrics above.")
    best_of([replace(best, samples=1, latent_scale=1.0)])
    return best, tried
