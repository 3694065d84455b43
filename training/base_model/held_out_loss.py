"""Diffusion losses on held-out images, always with the same noise, so that only such losses are comparable.

The noise and timesteps are those of negative step numbers, which no training uses.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from difflora_core.command_line import progress

from .lora_diffusion_loss import LoRADiffusionLoss
from .person_images import PersonImages

DRAWS = 4
"""Batches of each person's images over which the loss is averaged."""


@torch.no_grad()
def mean_loss(loss: Callable[[int], Tensor]) -> Tensor:
    """Return each person's loss (people,), the mean over `DRAWS` batches. loss: step → (people,)."""
    return torch.stack([loss(-1 - draw) for draw in range(DRAWS)]).mean(0).cpu()


def held_out_losses(
    loss: LoRADiffusionLoss, loras: Tensor, people: Sequence[PersonImages], people_per_batch: int = 16
) -> Tensor:
    """Return each person's loss (people,) with their own LoRA.

    Args:
        loss: Through the base model.
        loras: (people, numel), on any device.
        people: Their images.
        people_per_batch: A batch has `loss.images_per_person` samples of each.
    """
    losses = []
    for start in progress(range(0, len(loras), people_per_batch), "losses on held-out images", "batch"):
        chunk = slice(start, start + people_per_batch)
        losses.append(mean_loss(partial(loss, loras[chunk].to(loss.device), people[chunk])))
    return torch.cat(losses)
