"""`train-lae --dry-run`: sizes, memory and measured speed of a step, without a store."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from difflora_core.autoencoder.model import network_for
from difflora_core.lora.layout import LoRALayout
from training.engine.step_cost import StepCost, measure_step
from training.store.loras import open_stores

from .settings import LAESettings
from .train import new_lae
from .weight_space_objective import LAEObjective

FLOAT32_BYTES = 4
COPIES = 3  # of a batch on the device: as read, normalized, and what a blend adds


class RandomLoRAs:
    """Any number of random LoRAs for measuring: two different ones, in turn."""

    def __init__(self, numel: int, count: int) -> None:
        self.pair, self.count = torch.randn(2, numel, generator=torch.Generator().manual_seed(0)), count

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return LoRAs (len(rows), numel)."""
        return self.pair[[row % 2 for row in rows]]

    def columns(self, start: int, stop: int) -> Tensor:
        """Return values start … stop of the two different LoRAs."""
        return self.pair[:, start:stop]


def batch_bytes(layout: LoRALayout, batch: int) -> dict[str, int]:
    """Return the bytes that a batch of LoRAs takes on the device beside what the backward pass keeps."""
    return {"batch": COPIES * FLOAT32_BYTES * batch * layout.numel}


def dry_run(settings: LAESettings) -> Iterator[str]:
    """Describe sizes, then memory and measured speed with random LoRAs; no store is needed if there is a layout."""
    layout = settings.layout.layout() if settings.layout else open_stores(settings.stores)[0].layout
    config, latent = settings.lae, settings.lae.tokens * settings.lae.width
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in network_for(layout, config).parameters())
    yield "\n".join(
        [
            f"LoRA         {len(layout.modules)} modules, rank {layout.rank}: {layout.numel:,} values",
            f"autoencoder  {config.kind}, latent {config.tokens} × {config.width} = {latent:,} values, {parameters:,} "
            "parameters",
            f"compression  {layout.numel / latent:.1f} : 1 by the latent alone, {layout.numel / latent:.1f} : 1 with "
            "all side values (there are none: a LoRA's scale is in its latent)",
        ]
    )
    yield str(step_cost(settings, layout))


def step_cost(settings: LAESettings, layout: LoRALayout) -> StepCost:
    """Measure a step with random LoRAs."""
    training = settings.training
    lae = new_lae(layout, settings.lae, training.loop.seed)
    loss = LAEObjective(lae, RandomLoRAs(layout.numel, training.batch), training)
    return measure_step(lae, loss, training.loop, training.batch, batch_bytes(layout, training.batch))
