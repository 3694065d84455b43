"""The loss of joint training: MIF, DiT and LAE learn together from people's images, perhaps with teachers beside.

Without teachers the encoder sees predicted LoRAs alone, and an autoencoder that once knew teachers forgets them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from difflora_core.autoencoder.losses import reconstruction
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from difflora_core.seeds import generator_for
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages
from training.people.conditions import Conditions, draw_embeddings, drop_modality
from training.store.loras import LoRAs

from .config import JointTraining
from .objectives import check_people
from .rollout import latents_of_sampling


@dataclass(frozen=True)
class JointTeachers:
    """Teachers of some of the people who are trained on.

    Raises:
        ValueError: The counts differ.
    """

    loras: LoRAs
    """All LoRAs of a split of stores."""
    rows: Sequence[int]
    """Rows of `loras` that are these teachers."""
    people: Sequence[int]
    """Of each teacher, the position of its person among those who are trained on."""

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.people):
            raise ValueError(f"Each teacher is one person's, found {len(self.rows)} and {len(self.people)} people.")


class JointNetwork(nn.Module):
    """MIF, DiT and LAE as one module, so that they train as one."""

    def __init__(self, denoiser: Denoiser, lae: LAE) -> None:
        super().__init__()
        self.denoiser, self.lae = denoiser, lae

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        face: Tensor | None,
        image: Tensor | None,
        dropped: Tensor,
        decode: bool = False,
        teachers: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Predict x0; see `Denoiser.forward`.

        Args:
            noisy: (batch, tokens, width).
            timesteps: (batch,).
            face: (batch, face_width) or None.
            image: (batch, image_width) or None.
            dropped: bool (batch,).
            decode: Return latents, LoRAs (batch + teachers, numel) and the latents (batch, tokens, width) that the
                encoder finds for the predicted ones, without a gradient to these.
            teachers: With `decode`, LoRAs (teachers, numel) that are encoded and decoded, too.
        """
        latents: Tensor = self.denoiser(noisy, timesteps, face, image, dropped)
        if not decode:
            return latents
        known = latents if teachers is None else torch.cat([latents, self.lae.encode(teachers)])
        loras = self.lae.decode(known)
        return latents, loras, self.lae.encode(loras[: len(latents)].detach())


class JointObjective:
    """The diffusion loss of predicted LoRAs, and of teachers through the LAE, on people's images."""

    def __init__(
        self,
        network: JointNetwork,
        conditions: Conditions,
        images: Sequence[PersonImages],
        diffusion_loss: LoRADiffusionLoss,
        config: JointTraining,
        teachers: JointTeachers | None = None,
    ) -> None:
        """Store what a step needs.

        Args:
            network: What is trained.
            conditions: Embeddings of people.
            images: Of the same people, in the same order.
            diffusion_loss: Through the frozen base model.
            config: People per step, weights, dropout.
            teachers: Of some of the people, if `config.teachers` is above 0.

        Raises:
            ValueError: The counts don't agree, or there are fewer people or teachers than a micro-batch has.
        """
        if len(images) != len(conditions.face):
            raise ValueError(
                f"Found images of {len(images)} people and embeddings of {len(conditions.face)}: they must agree."
            )
        self.predicted = config.people - config.teachers
        check_people(self.predicted, len(images))
        if config.teachers > (found := len(teachers.rows) if teachers else 0):
            raise ValueError(
                f"A micro-batch has {config.teachers} teachers, found only {found} of the people: lower `teachers`."
            )
        self.lae, self.mif = network.lae, network.denoiser.mif
        self.conditions, self.images, self.teachers = conditions, images, teachers
        self.diffusion_loss, self.config = diffusion_loss, config
        # With one modality alone it is never dropped
        self.dropout = config.modality_dropout / 2 if self.mif.config.mode in ("gate", "mean") else 0.0

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch, and its terms. See `training.engine.batches_ahead.LossFunction`."""
        config, device = self.config, self.lae.mean.device
        step_generator = generator_for(config.loop.seed, step, "all micro-batches")
        people = torch.randperm(len(self.images), generator=generator)[: self.predicted]
        embeddings = draw_embeddings(self.conditions, people, config.max_references, config.embedding_noise, generator)
        dropped = drop_modality(self.dropout, self.dropout, step_generator)
        face, image = (None if off else e.to(device) for off, e in zip(dropped, embeddings, strict=True))
        start = torch.randn(len(people), *self.lae.latent_mean.shape, generator=generator).to(device)
        noisy, timesteps = latents_of_sampling(model, (face, image), start, config.max_rollout_steps, step_generator)
        null = (torch.rand(len(people), generator=generator) < config.cfg_dropout).to(device)
        teachers, owners = self._draw_teachers(generator)
        latents, loras, encoded = model(noisy, timesteps, face, image, null, decode=True, teachers=teachers)

        images = [self.images[row] for row in [*people.tolist(), *owners]]
        losses = self.diffusion_loss(loras, images, step)
        encoding_loss = reconstruction(encoded, latents.detach())
        lora_norm = self.lae.normalize(loras[: self.predicted]).square().mean()
        loss = losses.mean() + config.encoding_weight * encoding_loss + config.lora_penalty * lora_norm
        terms = {"diffusion_loss": losses[: self.predicted].mean(), "encoding_loss": encoding_loss}
        terms |= {"lora_norm": lora_norm, "latent_norm": latents.square().mean()}
        if owners:
            terms["teacher_diffusion_loss"] = losses[self.predicted :].mean()
        return loss, {name: term.detach() for name, term in terms.items()}

    def _draw_teachers(self, generator: torch.Generator) -> tuple[Tensor | None, list[int]]:
        """Draw teachers (teachers, numel), on the LAE's device, and whose they are; None without any."""
        if self.teachers is None or not self.config.teachers:
            return None, []
        chosen = torch.randperm(len(self.teachers.rows), generator=generator)[: self.config.teachers].tolist()
        loras = self.teachers.loras.read([self.teachers.rows[row] for row in chosen])
        return loras.to(self.lae.mean.device), [self.teachers.people[row] for row in chosen]
