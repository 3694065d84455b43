"""Learning-rate schedules, as factors of the peak rate."""

import math


def linear_warmup(step: int, warmup: int) -> float:
    """Return the factor of a step, counted from 0: 1 / warmup in the first, 1 from step `warmup` − 1 on."""
    return min(1.0, (step + 1) / max(1, warmup))


def cosine_decay(progress: float, final: float = 0.0) -> float:
    """Return the factor at a share of the training: 1 at progress 0, `final` at progress 1 and after it."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
