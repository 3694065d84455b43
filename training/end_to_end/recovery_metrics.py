"""Teacher recovery, or loss reduction, of LoRAs that the networks make of validation people."""

from dataclasses import replace

import torch
from torch import Tensor

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import SamplingConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.denoiser.sampling import sample
from training.base_model.loss_reduction import LossReduction
from training.base_model.teacher_recovery import TeacherRecovery

EVALUATED_STEPS = (1, 4, 20)
"""Steps of the samplers that are evaluated."""


@torch.no_grad()
def reconstruction_recovery(recovery: TeacherRecovery, lae: LAE, teachers: Tensor) -> float:
    """Return the recovery of teachers that an autoencoder has encoded and decoded; teachers: (people, numel)."""
    return recovery(lae.decode(lae.encode(teachers.to(lae.mean.device))))


@torch.no_grad()
def sampled_recovery(
    recovery: LossReduction,
    lae: LAE,
    denoiser: Denoiser,
    embeddings: tuple[Tensor, Tensor],
    sampling: SamplingConfig,
) -> float:
    """Evaluate sampled LoRAs, always from the same noise.

    Args:
        recovery: Of validation people, also a `TeacherRecovery`.
        lae: The decoder.
        denoiser: MIF and DiT.
        embeddings: Face and image embeddings (people, width) of their references.
        sampling: The settings.
    """
    config, device = denoiser.dit.config, next(denoiser.parameters()).device
    condition, _ = denoiser.mif(*(embedding.to(device) for embedding in embeddings))
    generator = torch.Generator().manual_seed(0)
    shape = config.tokens, config.latent_width
    latents = sample(denoiser.dit, condition, denoiser.mif.null, shape, sampling, generator)
    return recovery(lae.decode(latents))


def recovery_by_steps(
    recovery: LossReduction, lae: LAE, denoiser: Denoiser, embeddings: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Evaluate one sample per person by samplers of few and of many steps; `recovery.metric` is the mean."""
    plain = SamplingConfig(guidance_scale=1.0, samples=1)
    by_steps = {
        steps: sampled_recovery(recovery, lae, denoiser, embeddings, replace(plain, steps=steps))
        for steps in EVALUATED_STEPS
    }
    each = {f"{recovery.metric}_{steps}_steps": value for steps, value in by_steps.items()}
    return {recovery.metric: sum(by_steps.values()) / len(by_steps), **each}
