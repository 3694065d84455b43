"""Arithmetic with LoRA latents. Their origin is the average person, so a latent's norm is identity strength.

Mixing latents rather than LoRAs keeps the result where the LAE's decoder was trained. The paper does not blend people;
this is our choice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def blend(latents: Sequence[Tensor], amount: float = 0.5, latent_scale: float = 1.0) -> Tensor:
    """Mix people.

    Two latents are mixed linearly, of more than two the average is taken, one is left as it is. A latent of one
    candidate is mixed with each candidate of the others.

    Args:
        latents: (candidates, tokens, width) each.
        amount: Of two latents, 0 gives the first and 1 the second.
        latent_scale: Factor of the result: 0 is the average person, above 1 exaggerates.

    Returns:
        (candidates, tokens, width).

    Raises:
        ValueError: The shapes don't fit; they are named.
    """
    shapes = [tuple(latent.shape) for latent in latents]
    candidates = {shape[0] for shape in shapes if shape[0] > 1}
    if not latents or len({shape[1:] for shape in shapes}) > 1 or len(candidates) > 1:
        raise ValueError(f"Latents that are mixed have the same shape (candidates, tokens, width), found {shapes}.")
    if len(latents) == 2:
        return latent_scale * torch.lerp(latents[0], latents[1], amount)
    rows = max(shape[0] for shape in shapes)
    return latent_scale * torch.stack([latent.expand(rows, -1, -1) for latent in latents]).mean(0)
