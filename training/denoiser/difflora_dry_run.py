"""`train-difflora --dry-run`: sizes of the networks, memory and measured speed of a step."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from training.engine.format import format_bytes
from training.engine.step_cost import StepCost, measure_step
from training.people.conditions import Conditions, People
from training.people.latents import open_lae

from .latent_space_objective import LatentObjective
from .settings import DiffLoRASettings
from .train import loop_config, new_denoiser

FACE_WIDTH, IMAGE_WIDTH = 512, 768  # of InsightFace's packs and of CLIP ViT-L/14, where the settings don't say
FLOAT32_BYTES, FLOAT16_BYTES = 4, 2
IMAGES_PER_PERSON, PEOPLE = 16, 1000  # of the estimate of host memory


def dry_run(settings: DiffLoRASettings) -> Iterator[str]:
    """Describe sizes, then memory and measured speed with random people.

    Neither stores nor embeddings are needed. Without the LAE's file the latent is the one that the named DiT is meant
    for, and the terms through the decoder are left out.
    """
    lae = open_lae(settings.lae) if settings.lae.is_file() else None
    dit, mif = settings.networks(lae, _widths(settings))
    with torch.device("meta"):
        model = Denoiser(dit, mif)
    latents = FLOAT32_BYTES * dit.tokens * dit.latent_width
    embeddings = FLOAT32_BYTES * IMAGES_PER_PERSON * (mif.face_width + mif.image_width)
    checkpoint = FLOAT16_BYTES * (_count(model) + (0 if lae is None else _count(lae)))
    yield "\n".join(
        [
            f"LAE          {'not there yet: ' + str(settings.lae) if lae is None else f'{_count(lae):,} parameters'}",
            f"latent       {dit.tokens} × {dit.latent_width} = {dit.tokens * dit.latent_width:,} values",
            f"DiT          {dit.layers} layers × {dit.width}, {dit.heads} heads × {dit.head_width}: "
            f"{_count(model.dit):,} parameters",
            f"MIF          {mif.mode}, {mif.face_width} + {mif.image_width} → {mif.width}: {_count(model.mif):,} "
            "parameters",
            f"host memory  for every {PEOPLE:,} people {format_bytes(PEOPLE * latents)} of latents, and "
            f"{format_bytes(PEOPLE * embeddings)} of embeddings if each has {IMAGES_PER_PERSON} images",
            f"checkpoint   {format_bytes(checkpoint)}{' and the LAE' if lae is None else ''}",
        ]
    )
    yield str(step_cost(settings, lae))


def step_cost(settings: DiffLoRASettings, lae: LAE | None) -> StepCost:
    """Measure a step with random people.

    Args:
        settings: Of the training.
        lae: Frozen; None: as in `dry_run`.
    """
    widths, training = _widths(settings), settings.training
    dit, mif = settings.networks(lae, widths)
    if lae is None:
        training = replace(training, delta_w_error=0.0, delta_w_direction=0.0)
    generator = torch.Generator().manual_seed(0)
    shape = training.batch, training.max_references
    people = People(
        torch.randn(training.batch, dit.tokens, dit.latent_width, generator=generator),
        Conditions(*(torch.randn(*shape, width, generator=generator) for width in widths)),
    )
    objective = LatentObjective(people, training, lae, mif.mode)
    frozen = {} if lae is None else {"LAE": lae}
    return measure_step(
        new_denoiser(dit, mif, training), objective, loop_config(training), training.batch, frozen=frozen
    )


def _widths(settings: DiffLoRASettings) -> tuple[int, int]:
    return settings.mif.face_width or FACE_WIDTH, settings.mif.image_width or IMAGE_WIDTH


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
