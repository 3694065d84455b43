"""The loss of joint training: MIF, DiT and LAE decoder learn together from people's images alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from difflora_core.autoencoder.losses import reconstruction
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from difflora_core.seeds import generator_for
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages
from training.people.conditions import Conditions, draw_embeddings, drop_modality

from .config import JointTraining
from .rollout import latents_of_sampling


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
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Predict x0; see `Denoiser.forward`.

        Args:
            noisy: (batch, tokens, width).
            timesteps: (batch,).
            face: (batch, face_width) or None.
            image: (batch, image_width) or None.
            dropped: bool (batch,).
            decode: Return latents, LoRAs (batch, numel) and the latents that the encoder finds for these, without a
                gradient to the LoRAs.
        """
        latents: Tensor = self.denoiser(noisy, timesteps, face, image, dropped)
        if not decode:
            return latents
        loras = self.lae.decode(latents)
        return latents, loras, self.lae.encode(loras.detach())


class JointObjective:
    """The diffusion loss of predicted LoRAs on people's images; no LoRA was trained for anybody."""

    def __init__(
        self,
        network: JointNetwork,
        conditions: Conditions,
        images: Sequence[PersonImages],
        diffusion_loss: LoRADiffusionLoss,
        config: JointTraining,
    ) -> None:
        """Store what a step needs.

        Args:
            network: What is trained.
            conditions: Embeddings of people.
            images: Of the same people, in the same order.
            diffusion_loss: Through the frozen base model.
            config: People per step, weights, dropout.

        Raises:
            ValueError: The counts don't agree, or there are fewer people than a micro-batch has.
        """
        if len(images) != len(conditions.face):
            raise ValueError(
                f"Found images of {len(images)} people and embeddings of {len(conditions.face)}: they must agree."
            )
        if config.people > len(images):
            raise ValueError(
                f"A micro-batch has {config.people} people, found only {len(images)} to train on: lower `people`."
            )
        self.lae, self.mif = network.lae, network.denoiser.mif
        self.conditions, self.images = conditions, images
        self.diffusion_loss, self.config = diffusion_loss, config
        # With one modality alone it is never dropped
        self.dropout = config.modality_dropout / 2 if self.mif.config.mode in ("gate", "mean") else 0.0

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch, and its terms. See `training.engine.batches_ahead.LossFunction`."""
        config, device = self.config, self.lae.mean.device
        step_generator = generator_for(config.loop.seed, step, "all micro-batches")
        people = torch.randperm(len(self.images), generator=generator)[: config.people]
        embeddings = draw_embeddings(self.conditions, people, config.max_references, config.embedding_noise, generator)
        dropped = drop_modality(self.dropout, self.dropout, step_generator)
        face, image = (None if off else e.to(device) for off, e in zip(dropped, embeddings, strict=True))
        start = torch.randn(len(people), *self.lae.latent_mean.shape, generator=generator).to(device)
        noisy, timesteps = latents_of_sampling(model, (face, image), start, config.max_rollout_steps, step_generator)
        null = (torch.rand(len(people), generator=generator) < config.cfg_dropout).to(device)
        latents, loras, encoded = model(noisy, timesteps, face, image, null, decode=True)

        images = [self.images[row] for row in people.tolist()]
        diffusion_loss = self.diffusion_loss(loras, images, step).mean()
        encoding_loss = reconstruction(encoded, latents.detach())
        lora_norm = self.lae.normalize(loras).square().mean()
        loss = diffusion_loss + config.encoding_weight * encoding_loss + config.lora_penalty * lora_norm
        terms = {"diffusion_loss": diffusion_loss, "encoding_loss": encoding_loss, "lora_norm": lora_norm}
        terms["latent_norm"] = latents.square().mean()
        return loss, {name: term.detach() for name, term in terms.items()}
