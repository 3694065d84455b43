"""`train-difflora --dry-run`: how large the networks are, what memory a step takes, and how fast it is here."""

from dataclasses import replace

import torch
from torch import nn

from training.engine.step_cost import in_bytes, measure
from training.people.conditions import Conditions, People
from training.people.latents import open_lae

from .settings import DiffLoRASettings
from .train import denoising_loss, new_denoiser

FACE_WIDTH, IMAGE_WIDTH = 512, 768  # of InsightFace's packs and of CLIP ViT-L/14, where the settings don't say
FLOAT, PICTURES, THOUSAND = 4, 16, 1000  # bytes; what the estimate of host memory counts with


def dry_run(settings: DiffLoRASettings) -> str:
    """Sizes, memory and measured speed with random people.

    Neither stores nor embeddings are needed; without the LAE's file its latent is the one that the named DiT was meant
    for, and the terms through its decoder are left out.
    """
    lae = open_lae(settings.lae) if settings.lae.is_file() else None
    widths = settings.mif.face_width or FACE_WIDTH, settings.mif.image_width or IMAGE_WIDTH
    dit, mif = settings.networks(lae, widths)
    training = settings.training
    if lae is None:
        training = replace(training, delta_w_error=0.0, delta_w_direction=0.0)
    dice = torch.Generator().manual_seed(0)
    people = People(
        torch.randn(training.batch, dit.tokens, dit.latent_width, generator=dice),
        Conditions(*(torch.randn(training.batch, training.max_references, width, generator=dice) for width in widths)),
    )
    model = new_denoiser(dit, mif, training)
    frozen = {} if lae is None else {"LAE": lae}
    loop = replace(training.loop, unused_parameters=True, compile=False)  # as `train_denoiser` has it
    cost = measure(model, denoising_loss(people, training, lae, mif.mode), loop, training.batch, frozen=frozen)
    latents, embeddings = FLOAT * dit.tokens * dit.latent_width, FLOAT * PICTURES * sum(widths)
    whole = 2 * (_count(model) + (0 if lae is None else _count(lae)))
    return "\n".join(
        [
            f"LAE          {'not there yet: ' + str(settings.lae) if lae is None else f'{_count(lae):,} parameters'}",
            f"latent       {dit.tokens} × {dit.latent_width} = {dit.tokens * dit.latent_width:,} numbers",
            f"DiT          {dit.layers} layers × {dit.width}, {dit.heads} heads × {dit.head_width}: "
            f"{_count(model.dit):,} parameters",
            f"MIF          {mif.mode}, {mif.face_width} + {mif.image_width} → {mif.width}: {_count(model.mif):,} "
            "parameters",
            str(cost),
            f"host memory  for every {THOUSAND:,} people {in_bytes(THOUSAND * latents)} of latents, and "
            f"{in_bytes(THOUSAND * embeddings)} of embeddings if each has {PICTURES} pictures",
            f"checkpoint   {in_bytes(whole)}{' and the LAE' if lae is None else ''}",
        ]
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
