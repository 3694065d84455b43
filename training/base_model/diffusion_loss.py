"""The diffusion loss of many people at once.

Which images, timesteps and noise a step draws depends on the seed, the step and, with noise of each person's own, the
person's name. It never depends on who else is in the batch: therefore people who are trained together get the LoRAs
that each would get alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from difflora_core.diffusion_loss import loss_target, min_snr_weight, signal_to_noise, stratified_timesteps
from difflora_core.seeds import generator_for

from .interface import BaseModel, TextEmbeddings
from .person_images import PersonImages, image_order

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Noisy latents (batch, channels, h, w), timesteps (batch,) and rows of the text table (batch,) → the prediction."""

DrawTimesteps = Callable[[int, int, torch.Generator], Tensor]
"""How many, the length of the noise schedule and a generator → timesteps, int64."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Clean latents, what their places weigh in the loss (batch, h, w), noise, timesteps, rows of the text table."""


def predictor(base: BaseModel, texts: TextEmbeddings, size: int) -> Predict:
    """Make the prediction of a base model with a table of text embeddings, for images of `size` pixels."""
    table = {name: tensor.to(base.device, base.dtype) for name, tensor in texts.items()}

    def predict(noisy: Tensor, timesteps: Tensor, text_rows: Tensor) -> Tensor:
        return base.predict(noisy, timesteps, {name: tensor[text_rows] for name, tensor in table.items()}, size)

    return predict


class DiffusionLoss:
    """Each person's diffusion loss, with whatever LoRAs are mounted on the base model."""

    def __init__(
        self,
        predict: Predict,
        scheduler: Any,
        people: Sequence[PersonImages],
        images_per_person: int,
        seed: int = 0,
        shared_noise: bool = True,
        min_snr_gamma: float = 0.0,
        prior_weight: float = 0.0,
        prior: PersonImages | None = None,
        draw_timesteps: DrawTimesteps = stratified_timesteps,
    ) -> None:
        """Store what a step needs.

        Args:
            predict: Through the base model.
            scheduler: The base model's noise schedule, diffusers' DDPMScheduler.
            people: Their images, latents on the base model's device.
            images_per_person: Images of each person per step; with a prior, also as many class images.
            seed: Of images, timesteps and noise.
            shared_noise: All people get one sequence of noise, timesteps and images.
            min_snr_gamma: γ of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556); 0 is off.
            prior_weight: Of the loss on class images (Ruiz et al. 2023, arXiv 2208.12242); 0 is off.
            prior: The class images.
            draw_timesteps: Of the images of one person in a step.

        Raises:
            ValueError: There is a prior weight without class images.
        """
        if prior_weight and prior is None:
            raise ValueError("prior preservation needs class images, found none")
        self.predict, self.scheduler, self.people = predict, scheduler, list(people)
        self.images_per_person, self.seed, self.shared_noise = images_per_person, seed, shared_noise
        self.min_snr_gamma, self.prior_weight = min_snr_gamma, prior_weight
        self.prior = prior if prior_weight else None
        self.draw_timesteps = draw_timesteps

    def __call__(self, step: int) -> Tensor:
        """Return each person's mean loss (people,) in a step."""
        clean, *others = self._draw_batch(step)
        weights, noise, timesteps, text_rows = (tensor.to(clean.device) for tensor in others)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        output = self.predict(noisy, timesteps, text_rows).float()
        prediction_type = self.scheduler.config.prediction_type
        alphas = self.scheduler.alphas_cumprod.to(clean.device)[timesteps]
        squares = (output - loss_target(prediction_type, clean, noise, alphas)).square()
        loss = (squares * weights[:, None]).mean(dim=(1, 2, 3))
        if self.min_snr_gamma:
            loss = loss * min_snr_weight(signal_to_noise(alphas), self.min_snr_gamma, prediction_type)
        loss = loss.view(len(self.people), -1, self.images_per_person).mean(2)  # (people, 1), with a prior (people, 2)
        return loss[:, 0] if self.prior is None else loss[:, 0] + self.prior_weight * loss[:, 1]

    def _draw_batch(self, step: int) -> Batch:
        """Draw all people's samples, each person's own before the class's."""
        parts: list[Batch] = []
        for person in self.people:
            name = None if self.shared_noise else person.name
            generator = generator_for(self.seed, "noise", step, *([] if name is None else [name]))
            parts.append(self._draw_samples(person, step, generator, name))
            if self.prior is not None:
                parts.append(self._draw_samples(self.prior, step, generator, name))
        clean, weights, noise, timesteps, text_rows = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return clean, weights, noise, timesteps, text_rows

    def _draw_samples(self, images: PersonImages, step: int, generator: torch.Generator, name: str | None) -> Batch:
        order = image_order(images.prompt_count, step, self.images_per_person, self.seed, name)
        picks = images.nearest(order)
        timesteps = self.draw_timesteps(self.images_per_person, self.scheduler.config.num_train_timesteps, generator)
        noise = torch.randn(self.images_per_person, *images.latents.shape[1:], generator=generator)
        clean = images.latents[picks.to(images.latents.device)].float()
        weights = clean.new_ones(len(picks), *clean.shape[2:])
        if images.loss_weights is not None:
            weights = images.loss_weights[picks].to(clean)
        return clean, weights, noise, timesteps, images.text_rows[picks]
