"""The losses of end-to-end fine-tuning: of the LoRA autoencoder, and of MIF and DiT."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from difflora_core.autoencoder.losses import reconstruction
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from difflora_core.denoiser.noise_schedule import NoiseSchedule, draw_timesteps
from difflora_core.seeds import generator_for
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages
from training.people.conditions import Conditions, draw_embeddings, drop_modality
from training.store.loras import LoRAs

from .config import DenoiserFinetuning, LAEFinetuning
from .rollout import latents_of_sampling


def check_people(people: int, found: int) -> None:
    """Check that a micro-batch can have as many people as it should.

    Raises:
        ValueError: There are fewer to train on.
    """
    if people > found:
        raise ValueError(f"A micro-batch has {people} people, found only {found} to train on: lower `people`.")


class LAEEndToEndObjective:
    """The diffusion loss of reconstructed teachers on their people's images, and the weight-space loss beside it."""

    def __init__(
        self,
        lae: LAE,
        loras: LoRAs,
        images: Sequence[PersonImages],
        diffusion_loss: LoRADiffusionLoss,
        config: LAEFinetuning,
    ) -> None:
        """Store what a step needs.

        Args:
            lae: What is trained.
            loras: Teachers.
            images: Of the same people, in the same order.
            diffusion_loss: Through the frozen base model.
            config: People per step, weight of the weight-space loss.

        Raises:
            ValueError: There are fewer teachers than a micro-batch has people.
        """
        check_people(config.people, len(loras))
        self.lae, self.loras, self.images = lae, loras, images
        self.diffusion_loss, self.config = diffusion_loss, config

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch, and its terms. See `training.engine.batches_ahead.LossFunction`."""
        people = torch.randperm(len(self.loras), generator=generator)[: self.config.people].tolist()
        target = self.lae.normalize(self.loras.read(people).to(self.lae.mean.device))
        predicted, _, _ = model(target)
        images = [self.images[row] for row in people]
        diffusion_loss = self.diffusion_loss(self.lae.restore(predicted), images, step).mean()
        reconstruction_loss = reconstruction(predicted, target)
        loss = diffusion_loss + self.config.reconstruction_weight * reconstruction_loss
        metrics = {"diffusion_loss": diffusion_loss.detach(), "reconstruction_loss": reconstruction_loss.detach()}
        return loss, metrics


@dataclass(frozen=True)
class FinetuneDataset:
    """People with embeddings and images; some of them have a teacher.

    Raises:
        ValueError: The counts don't agree.
    """

    conditions: Conditions
    """Embeddings of all people."""
    images: Sequence[PersonImages]
    """Of all people, in the same order."""
    teachers: Tensor
    """Rows of the people who have a teacher, int64 (teachers,)."""
    latents: Tensor
    """Standardized latents of the teachers (teachers, tokens, width)."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.conditions.face) or len(self.teachers) != len(self.latents):
            raise ValueError(
                f"Found images of {len(self.images)} people and embeddings of {len(self.conditions.face)}, and "
                f"{len(self.latents)} latents of {len(self.teachers)} people with a teacher: they must agree."
            )


class DenoiserEndToEndObjective:
    """The diffusion loss of predicted LoRAs on people's images, and the latent-space loss on teachers beside it.

    Half of the LoRAs are predicted from pure noise, as in the first step of sampling; the others from what a sampler
    with the present network has come to (`rollout`). No teacher is needed for either.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        lae: LAE,
        dataset: FinetuneDataset,
        diffusion_loss: LoRADiffusionLoss,
        config: DenoiserFinetuning,
    ) -> None:
        """Store what a step needs.

        Args:
            denoiser: What is trained.
            lae: Frozen.
            dataset: People.
            diffusion_loss: Through the frozen base model.
            config: People per step, weights, dropout.

        Raises:
            ValueError: There are fewer people than a micro-batch has.
        """
        check_people(config.people, len(dataset.images))
        self.denoiser, self.lae, self.dataset = denoiser, lae, dataset
        self.diffusion_loss, self.config, self.schedule = diffusion_loss, config, NoiseSchedule()
        # With one modality alone it is never dropped
        self.dropout = config.modality_dropout / 2 if denoiser.mif.config.mode in ("gate", "mean") else 0.0

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch, and its terms. See `training.engine.batches_ahead.LossFunction`."""
        config, device = self.config, next(self.denoiser.parameters()).device
        step_generator = generator_for(config.loop.seed, step, "all micro-batches")
        people = torch.randperm(len(self.dataset.images), generator=generator)[: config.people]
        teachers = torch.randint(0, len(self.dataset.latents), (config.batch,), generator=generator)
        rows = torch.cat([people, self.dataset.teachers[teachers]])
        embeddings = [e if e is None else e.to(device) for e in self._embeddings(rows, generator, step_generator)]
        of_people = [e if e is None else e[: len(people)] for e in embeddings]

        clean = self.dataset.latents[teachers].to(device)
        noisy, timesteps, null = self._add_noise(clean, generator)
        start = torch.randn(len(people), *clean.shape[1:], generator=generator).to(device)
        own, own_timesteps = latents_of_sampling(model, of_people, start, config.max_rollout_steps, step_generator)

        predicted = model(
            torch.cat([own, noisy]),
            torch.cat([own_timesteps, timesteps]),
            *embeddings,
            torch.cat([torch.zeros(len(people), dtype=torch.bool, device=device), null]),
        )
        images = [self.dataset.images[row] for row in people.tolist()]
        diffusion_loss = self.diffusion_loss(self.lae.decode(predicted[: len(people)]), images, step).mean()
        latent_loss = reconstruction(predicted[len(people) :], clean)
        loss = diffusion_loss + config.latent_loss_weight * latent_loss
        return loss, {"diffusion_loss": diffusion_loss.detach(), "latent_loss": latent_loss.detach()}

    def _embeddings(
        self, people: Tensor, generator: torch.Generator, step_generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor | None]:
        """Face and image embeddings (batch, width) of random references; in some steps one of them alone."""
        config = self.config
        face, image = draw_embeddings(
            self.dataset.conditions, people, config.max_references, config.embedding_noise, generator
        )
        without_face, without_image = drop_modality(self.dropout, self.dropout, step_generator)
        return None if without_face else face, None if without_image else image

    def _add_noise(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents of teachers, their timesteps, and who gets the null condition, on the device of `clean`."""
        count = len(clean)
        timesteps = draw_timesteps(count, generator, self.config.timestep_bias).to(clean.device)
        null = (torch.rand(count, generator=generator) < self.config.cfg_dropout).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        return self.schedule.to(clean.device).add_noise(clean, noise, timesteps), timesteps, null
