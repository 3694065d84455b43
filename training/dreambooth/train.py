"""DreamBooth LoRAs for many people at once: one frozen base model, each sample with its own A_i and B_i.

A batch holds `people × rows` samples. The frozen layers see one large batch; every target layer adds the sample's own
low-rank branch with two batched matrix products. So K people cost one base pass and give the LoRAs that each would get
alone (tested). All people start from the same factors and may share noise, timesteps and captions: what then differs
between two LoRAs is the person, not the dice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from difflora_core.lora.layout import LoRALayout
from training.base_model.batched_loras import stacked_loras

START_SEED = 2408


@dataclass(frozen=True)
class DreamBoothConfig:
    """steps: optimizer steps. rows: pictures of each person per step. learning_rate: AdamW's peak, cosine to zero after
    `warmup` steps. seed: of noise, timesteps and picture choice. weight_decay: AdamW's. gradient_checkpointing: forget
    the U-Net's activations and compute them again in the backward pass, which saves memory and costs time.
    """

    steps: int = 80
    rows: int = 4
    learning_rate: float = 1.0e-2
    warmup: int = 5
    seed: int = 0
    weight_decay: float = 0.0
    gradient_checkpointing: bool = False


def initial_lora(layout: LoRALayout, generator: torch.Generator) -> Tensor:
    """The shared start (numel,): down uniform in ±1/√in as PEFT does, up zero, so that ΔW = 0."""
    factors = {}
    for module in layout.modules:
        down = torch.rand(layout.rank, module.in_features, generator=generator) * 2 - 1
        factors[module.name] = (down / module.in_features**0.5, torch.zeros(module.out_features, layout.rank))
    return layout.flatten(factors)


def shared_start(layout: LoRALayout) -> Tensor:
    """The one start (numel,) of all teachers of a layout, whatever else is chosen: stores made apart can be joined."""
    return initial_lora(layout, torch.Generator().manual_seed(START_SEED))


PersonLoss = Callable[[int, torch.Generator], Tensor]


def train_loras(
    unet: nn.Module,
    layout: LoRALayout,
    start: Tensor,
    people: int,
    loss: PersonLoss,
    config: DreamBoothConfig,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """LoRAs of `people` people, trained together from the shared `start` (numel,): (people, numel) float32.

    loss(step, generator) → (people,): each person's mean loss, computed through `unet` on a batch ordered by person.
    The generator's seed depends on config.seed and the step alone. The people's losses are summed, so a person's
    gradient, and with Adam its whole path, doesn't depend on who else is in the batch.
    """
    flat = nn.Parameter(start.float().repeat(people, 1))
    optimizer = torch.optim.AdamW(
        [flat], lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
    with checkpointed(unet, config.gradient_checkpointing):
        for step in range(config.steps):
            rate = config.learning_rate * _rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = torch.Generator().manual_seed(1_000_003 * config.seed + step)
            optimizer.zero_grad(set_to_none=True)
            with stacked_loras(unet, layout, flat):
                loss(step, generator).sum().backward()
            optimizer.step()
            if on_step:
                on_step(step + 1)
    return flat.detach()


@contextmanager
def checkpointed(unet: Any, wanted: bool) -> Iterator[None]:
    """While open, a diffusers U-Net computes its activations again in the backward pass instead of keeping them."""
    if not wanted:
        yield
        return
    if not hasattr(unet, "enable_gradient_checkpointing"):
        raise ValueError(f"{type(unet).__name__} has no gradient checkpointing; train without it")
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


def _rate(step: int, config: DreamBoothConfig) -> float:
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    return warm * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * step / config.steps))))
