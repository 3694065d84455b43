"""DreamBooth LoRAs for many people at once: one frozen base model, a LoRA per person.

A batch holds `people × images_per_person` samples. The frozen layers process one large batch; every target layer adds
each person's own low-rank branch with two batched matrix products. K people therefore cost one pass through the base
model and get the LoRAs that each would get alone (tested). All people start from the same factors and may share noise,
timesteps and captions: two LoRAs then differ by the person and not by chance.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout
from training.base_model.batched_loras import stacked_loras
from training.base_model.checkpointed_unet import checkpointed
from training.engine.config import cosine_decay, linear_warmup

from .config import DreamBoothConfig

START_SEED = 2408
"""Of the shared start; never derived anew, since stores of LoRAs that were trained from it exist."""

PeopleLoss = Callable[[int], Tensor]
"""step → each person's mean loss (people,), through a U-Net on which the people's LoRAs are mounted."""


def initial_lora(layout: LoRALayout, generator: torch.Generator) -> Tensor:
    """Draw a LoRA (numel,) with ΔW = 0: down uniform in ±1/√in as in PEFT, up zero."""
    factors = {}
    for module in layout.modules:
        down = torch.rand(layout.rank, module.in_features, generator=generator) * 2 - 1
        factors[module.name] = (down / module.in_features**0.5, torch.zeros(module.out_features, layout.rank))
    return layout.flatten(factors)


def shared_start(layout: LoRALayout) -> Tensor:
    """Return the one start (numel,) of all teachers of a layout: stores that were made separately can be joined."""
    return initial_lora(layout, torch.Generator().manual_seed(START_SEED))


def train_loras(
    unet: nn.Module,
    layout: LoRALayout,
    start: Tensor,
    people: int,
    loss: PeopleLoss,
    config: DreamBoothConfig,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Train the LoRAs of several people together.

    The people's losses are summed, so a person's gradient, and with Adam the person's whole training, does not depend
    on who else is in the batch.

    Args:
        unet: The frozen network.
        layout: Of the LoRAs.
        start: LoRA (numel,) from which all people start.
        people: How many there are.
        loss: Each person's loss, through `unet` on a batch ordered by person.
        config: Steps and optimizer; its settings of noise, weights and prior are for whoever makes `loss`.
        on_step: Called after each step with the number of steps done.

    Returns:
        LoRAs (people, numel) float32, and each person's loss (people,) in the last step.
    """
    flat = nn.Parameter(start.float().repeat(people, 1))
    optimizer = torch.optim.AdamW(
        [flat], lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
    losses = torch.full((people,), torch.nan)
    with checkpointed(unet, config.gradient_checkpointing):
        for step in range(config.steps):
            factor = linear_warmup(step, config.warmup) * cosine_decay(step / config.steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            optimizer.zero_grad(set_to_none=True)
            with stacked_loras(unet, layout, flat):
                losses = loss(step)
                losses.sum().backward()
            optimizer.step()
            if on_step:
                on_step(step + 1)
    return flat.detach(), losses.detach()
