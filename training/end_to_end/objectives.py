"""Train through the base model's pictures: first the LoRA autoencoder, later MIF and DiT.

Both start from networks that were trained on teachers' numbers, and both keep a share of that loss, so that latents
keep their meaning. What changes is who judges: the frozen base model, on the people's pictures (`diffusion_loss`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.diffusion import (
    TIMESTEPS,
    NoiseSchedule,
    SamplingConfig,
    draw_timesteps,
    sample,
    trajectory,
)
from difflora_core.losses import reconstruction
from training.base_model.diffusion_loss import PersonImages
from training.base_model.lora_loss import LoRADiffusionLoss
from training.base_model.teacher_recovery import TeacherRecovery
from training.denoiser.train import Denoiser
from training.engine.loop import LossFunction, TrainConfig, generator_of_step
from training.people.conditions import Conditions, draw_references
from training.store.loras import LoRAs

VALIDATED_STEPS = (1, 4, 20)
"""Of the samplers whose LoRAs are looked at."""


@dataclass(frozen=True)
class LAEFinetuning:
    """people: per step and process. numbers: weight of the loss on numbers, beside the pictures' of 1."""

    loop: TrainConfig
    people: int = 16
    numbers: float = 0.02


@dataclass(frozen=True)
class DenoiserFinetuning:
    """people: whose pictures are looked at in a step and process. batch: teachers of the diffusion loss in the same
    step; numbers: its weight, beside the pictures' of 1. timestep_bias: of its timesteps, see `draw_timesteps`.
    max_rollout_steps: of the samplers whose latents are met in training. The rest as in `DiffLoRATraining`.

    The diffusion loss keeps the latents' meaning and gives guidance something to learn from, but with little noise it
    teaches to trust the latent that comes in, which in sampling is the network's own guess: hence so small a weight,
    and nearly pure noise. In the miniature, teacher recovery in 1, 4 and 20 steps of 32 validation people after 300 more
    steps of one training: 1.36, 1.35, 1.32 with weight .02 and timestep_bias 1.5, 1.36, 1.36, 1.35 with these.
    """

    loop: TrainConfig
    people: int = 16
    batch: int = 32
    numbers: float = 0.005
    max_references: int = 6
    embedding_noise: float = 0.25
    cfg_dropout: float = 0.1
    modality_dropout: float = 0.3
    timestep_bias: float = 8.0
    max_rollout_steps: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.max_rollout_steps <= TIMESTEPS:
            raise ValueError(f"A sampler has 1 to {TIMESTEPS} steps, found max_rollout_steps {self.max_rollout_steps}.")


class Autoencode(nn.Module):
    """The LAE's network both ways as one forward pass, so that gradients are shared between processes."""

    def __init__(self, lae: LAE) -> None:
        super().__init__()
        self.lae = lae

    def forward(self, numbers: Tensor) -> Tensor:
        return self.lae.network.decode(self.lae.network.encode(numbers))


def lae_loss(
    lae: LAE, loras: LoRAs, albums: Sequence[PersonImages], pictures: LoRADiffusionLoss, training: LAEFinetuning
) -> LossFunction:
    """Loss of an `Autoencode` on teachers and the same people's albums, in the same order."""

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        people = torch.randperm(len(loras), generator=generator)[: training.people].tolist()
        target = lae.normalize(loras.read(people).to(lae.mean.device))
        predicted = model(target)
        seeing = pictures(lae.restore(predicted), [albums[i] for i in people], step).mean()
        counting = reconstruction(predicted, target)
        return seeing + training.numbers * counting, {"picture": seeing.item(), "numbers": counting.item()}

    return loss


@dataclass(frozen=True)
class FinetuneDataset:
    """People for the second stage: embeddings and albums of all, latents of those who have a teacher.

    conditions: of all people. albums: in the same order. taught: int64 (teachers,), who has a teacher. latents:
    (teachers, tokens, width), standardized.
    """

    conditions: Conditions
    albums: Sequence[PersonImages]
    taught: Tensor
    latents: Tensor

    def __post_init__(self) -> None:
        if len(self.albums) != len(self.conditions.face) or len(self.taught) != len(self.latents):
            raise ValueError(
                f"Found {len(self.albums)} albums for {len(self.conditions.face)} people's embeddings, and "
                f"{len(self.latents)} latents for {len(self.taught)} people with a teacher: they must agree."
            )


def denoiser_loss(
    denoiser: Denoiser, lae: LAE, everyone: FinetuneDataset, pictures: LoRADiffusionLoss, training: DenoiserFinetuning
) -> LossFunction:
    """Loss of a `Denoiser`: pictures of the LoRAs that it predicts, and the diffusion loss on teachers beside it.

    Half of the pictures' rows are predicted from pure noise, as in the first step of sampling; the others from what a
    sampler with the present network comes to (`_meet`). Nobody needs a teacher for that.
    """
    shape = everyone.latents.shape[1:]
    schedule = NoiseSchedule()
    if denoiser.mif.config.mode not in ("gate", "mean"):
        training = replace(training, modality_dropout=0.0)  # of these modes the one expert is never dropped

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        device = next(denoiser.parameters()).device
        schedule.to(device)
        seen = torch.randperm(len(everyone.albums), generator=generator)[: training.people]
        numbered = torch.randint(0, len(everyone.latents), (training.batch,), generator=generator)
        shared = generator_of_step(training.loop.seed, step)
        people = torch.cat([seen, everyone.taught[numbered]])
        experts = _draw_experts(everyone.conditions, people, training, generator, shared)
        face, image = (None if expert is None else expert.to(device) for expert in experts)

        count = len(seen)
        first = (count + int(torch.randint(2, (), generator=shared))) // 2
        timesteps = draw_timesteps(len(numbered), generator, training.timestep_bias)
        dropped = torch.rand(len(numbered), generator=generator) < training.cfg_dropout
        noise, start = (torch.randn(n, *shape, generator=generator) for n in (len(numbered), count))
        steps, met = _draw_steps(training.max_rollout_steps, shared)
        timesteps, dropped, noise, start = (x.to(device) for x in (timesteps, dropped, noise, start))

        later = [None if expert is None else expert[first:count] for expert in (face, image)]
        latents, timestep = _meet(model, later, start[first:], steps, met)
        clean = everyone.latents[numbered].to(device)
        noisy = torch.cat([start[:first], latents, schedule.add_noise(clean, noise, timesteps)])
        last = torch.full((first,), TIMESTEPS - 1, device=device)
        timesteps = torch.cat([last, timestep.expand(count - first), timesteps])
        dropped = torch.cat([torch.zeros(count, dtype=torch.bool, device=device), dropped])

        predicted = model(noisy, timesteps, face, image, dropped)
        loras = lae.decode(predicted[:count])
        seeing = pictures(loras, [everyone.albums[i] for i in seen.tolist()], step).mean()
        counting = reconstruction(predicted[count:], clean)
        return seeing + training.numbers * counting, {"picture": seeing.item(), "numbers": counting.item()}

    return loss


def _draw_steps(most: int, generator: torch.Generator) -> tuple[int, int]:
    """How many steps a sampler has, 2 to `most`, few as often as many by their logarithm, and how many of them, at
    least one, are done when the network is asked.
    """
    one, other = torch.rand(2, generator=generator).tolist()
    steps = min(most, int(2 * ((most + 1) / 2) ** one)) if most > 1 else 1
    return steps, min(steps - 1, 1 + int(other * (steps - 1)))


def _meet(
    model: nn.Module, experts: Sequence[Tensor | None], noise: Tensor, steps: int, met: int
) -> tuple[Tensor, Tensor]:
    """Latents and timestep after `met` of a sampler's `steps`: what the network will meet there, mistakes included.

    model: a `Denoiser`, perhaps shared by processes. experts: face and image embeddings (people, width). Noise added to
    a teacher's latent is never what comes here: a network that has learned from it alone trusts what it is given, and
    its own small mistakes grow from step to step (exposure bias).
    """
    kept = torch.zeros(len(noise), dtype=torch.bool, device=noise.device)

    def denoise(noisy: Tensor, timesteps: Tensor, _: Tensor) -> Tensor:
        return model(noisy, timesteps, *experts, kept)

    config, met = SamplingConfig(steps=steps, guidance_scale=1.0, samples=1), met if len(noise) else 0
    nobody = noise.new_zeros(len(noise), 1)  # the condition is made inside the model
    return next(islice(trajectory(denoise, nobody, nobody[0], noise, config), met, None))


def _draw_experts(
    conditions: Conditions,
    people: Tensor,
    training: DenoiserFinetuning,
    generator: torch.Generator,
    shared: torch.Generator,
) -> tuple[Tensor | None, Tensor | None]:
    """Face and image embeddings of a random handful of each person's pictures; by the shared dice one of them alone."""
    counts = torch.randint(1, training.max_references + 1, (len(people),), generator=generator)
    if conditions.counts is None:
        counts = counts.clamp_max(conditions.face.shape[1])
    face, image = (
        draw_references(embeddings, people, counts, training.embedding_noise, generator, conditions.counts)
        for embeddings in (conditions.face, conditions.image)
    )
    single_modality = torch.rand(2, generator=shared)
    if single_modality[0] >= training.modality_dropout:
        return face, image
    return (face, None) if single_modality[1] < 0.5 else (None, image)


@torch.no_grad()
def sampled_recovery(
    recovery: TeacherRecovery, lae: LAE, denoiser: Denoiser, experts: tuple[Tensor, Tensor], sampling: SamplingConfig
) -> float:
    """The teacher recovery of LoRAs that are sampled for everybody, always from the same noise.

    experts: face and image embeddings (people, width) of each person's references.
    """
    config, device = denoiser.dit.config, next(denoiser.parameters()).device
    condition, _ = denoiser.mif(*(expert.to(device) for expert in experts))
    generator = torch.Generator().manual_seed(0)
    shape = config.tokens, config.latent_width
    latents = sample(denoiser.dit, condition, denoiser.mif.null, shape, sampling, generator)
    return recovery(lae.decode(latents))


def recovery_by_steps(
    recovery: TeacherRecovery, lae: LAE, denoiser: Denoiser, experts: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Of one sample of everybody by samplers of few and of many steps; `teacher_recovery` is the mean, each is told."""
    plain = SamplingConfig(guidance_scale=1.0, samples=1)
    gains = {
        steps: sampled_recovery(recovery, lae, denoiser, experts, replace(plain, steps=steps))
        for steps in VALIDATED_STEPS
    }
    each = {f"teacher_recovery_{steps}_steps": value for steps, value in gains.items()}
    return {"teacher_recovery": sum(gains.values()) / len(gains), **each}
