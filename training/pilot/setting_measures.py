"""What is measured of one setting's LoRAs, in the base model: likeness, held-out loss, prompt similarity."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from difflora_core.encoders.face_encoder import FaceEncoder
from difflora_core.lora.layout import LoRALayout
from training.base_model.batched_loras import stacked_loras
from training.base_model.diffusion_loss import predictor
from training.base_model.held_out_loss import held_out_losses
from training.base_model.interface import BaseModel
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.stages.preprocess import PreparedImages, read_prepared, read_texts

from .pilot_people import face_of, kept_out_faces
from .prompt_similarity import PromptSimilarity

LOSS_IMAGES, LOSS_PEOPLE, LOSS_SEED = 4, 2, 77
"""Noisy images of each person, and people, in a batch of the loss; the seed of noise on which nobody is trained."""


@dataclass(frozen=True)
class Measures:
    """Means over the people."""

    likeness: float
    """Cosine of the faces of generated images with those of the person's kept-out images; 0 without a face."""
    loss: float
    """Diffusion loss on the kept-out images."""
    prompt_similarity: float | None
    """Cosine of generated images with their captions by CLIP; None where there is no CLIP model."""
    likeness_by_person: tuple[float, ...]
    """Of each person."""
    without_face: int
    """Generated images in which no face was found."""


@dataclass(frozen=True)
class Measurer:
    """What measures the LoRAs of one setting after another, on the same people, captions and noise."""

    config: DatasetConfig
    """Of the pipeline; of generation `verify` has the settings."""
    base: BaseModel
    """The frozen base model."""
    encoder: FaceEncoder
    """Of generated faces."""
    clip: PromptSimilarity | None
    """For the prompts."""
    people: Sequence[str]
    """Names."""
    faces: Sequence[Tensor]
    """Of each person, unit-length embeddings (images, width) of the kept-out images."""
    images: Sequence[tuple[PreparedImages, PreparedImages]]
    """Of each person, those of training and the kept-out ones."""

    @classmethod
    def open(
        cls,
        config: DatasetConfig,
        base: BaseModel,
        encoder: FaceEncoder,
        clip: PromptSimilarity | None,
        people: Sequence[str],
    ) -> "Measurer":
        """Read the people's kept-out images.

        Raises:
            ValueError: A face pack finds nobody in somebody's images, or what was prepared is damaged.
        """
        images = [read_prepared(config, person).split(config.preprocess.held_out) for person in people]
        return cls(config, base, encoder, clip, people, kept_out_faces(config, people, encoder), images)

    def measure(self, loras: Tensor, layout: LoRALayout) -> tuple[Measures, list[np.ndarray]]:
        """Measure LoRAs (people, numel).

        Returns:
            The measures, and the first generated image of each person, uint8 (size, size, 3).
        """
        likeness, prompts, shown, without_face = [], [], [], 0
        for number, lora in enumerate(loras):
            captions = self.captions(number)
            with stacked_loras(self.base.unet, layout, lora[None].to(self.base.device, torch.float32)):
                images = self._generate(captions)
            pixels = images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
            found = [face_of(np.ascontiguousarray(image), self.encoder) for image in pixels]
            likeness.append(fmean(0.0 if f is None else float((self.faces[number] @ f).mean()) for f in found))
            without_face += sum(face is None for face in found)
            if self.clip:
                prompts.append(float(self.clip(images, captions).mean()))
            shown.append(pixels[0])
        loss, prompt = self._loss(loras, layout), fmean(prompts) if prompts else None
        return Measures(fmean(likeness), loss, prompt, tuple(likeness), without_face), shown

    def captions(self, number: int) -> list[str]:
        """Return what a person's generated images show: first the captions of the kept-out images."""
        trained, kept_out = self.images[number]
        both = [*kept_out.captions, *trained.captions]
        return [both[i % len(both)] for i in range(self.config.verify.images)]

    def _generate(self, captions: Sequence[str]) -> Tensor:
        settings = self.config.verify
        return self.base.generate(
            captions, self.config.preprocess.size, settings.steps, settings.guidance_scale, settings.seed
        )

    def _loss(self, loras: Tensor, layout: LoRALayout) -> float:
        captions = sorted({caption for _, kept_out in self.images for caption in kept_out.captions})
        rows = {caption: row for row, caption in enumerate(captions)}
        own = [
            PersonImages.complete(name, kept.latents, torch.tensor([rows[caption] for caption in kept.captions]))
            for name, (_, kept) in zip(self.people, self.images, strict=True)
        ]
        predict = predictor(self.base, read_texts(self.config, captions), self.config.preprocess.size)
        loss = LoRADiffusionLoss(self.base.unet, layout, predict, self.base.scheduler(), LOSS_IMAGES, LOSS_SEED)
        return float(held_out_losses(loss, loras.float(), own, LOSS_PEOPLE).mean())
