"""LoRA-DreamBooth (Ruiz et al., arXiv 2208.12242; Hu et al., arXiv 2106.09685) on the references that others see, too.

Each person is trained alone, so that the time is that of one person. Settings have to be chosen on other people.
"""

import time
from dataclasses import asdict
from pathlib import Path

import torch

from difflora_core.lora.lora import LoRA
from training.base_model.diffusion_loss import DiffusionLoss, predictor
from training.base_model.person_images import PersonImages
from training.dreambooth.config import NO_EFFECT
from training.dreambooth.train import shared_start, train_loras
from training.lora_dataset.fingerprints import Fingerprint, hash_files

from ...method_settings import MethodSettings
from ...people_folders import EvaluatedPerson, seen_references
from ...prompt_list import PERSON
from ..made_files import Made
from ..reference_pixels import square_pixels
from ..shared_base import SharedBase
from .made_loras import MadeLoRAs, made_lora


class TrainedLoRAs(MadeLoRAs):
    """DreamBooth by the trainer of the teachers."""

    def __init__(self, base: SharedBase, settings: MethodSettings, subject: str, folder: Path) -> None:
        """Take the settings of training.

        Args:
            base: The shared base model.
            settings: Of the kind dreambooth.
            subject: In place of {person}, in prompts and in the caption of the training images.
            folder: For PERSON.safetensors.
        """
        super().__init__(base, subject, folder)
        self.references, self.training = settings.references, settings.training
        self.caption = settings.caption.replace(PERSON, subject)
        self.placement = (
            f'"{subject}" in place of {{person}}; trained with the caption "{self.caption}", rank '
            f"{self.training.rank}, {self.training.steps} steps, learning rate {self.training.learning_rate:g}"
        )

    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, the settings of training and the references.

        Raises:
            FileNotFoundError: There is no base model.
            ValueError: The person has too few references.
        """
        training = {name: value for name, value in asdict(self.training).items() if name not in NO_EFFECT}
        return {
            **self.base.training_fingerprint,
            **{f"method.training.{name}": value for name, value in training.items()},
            "method.caption": self.caption,
            "references": hash_files(seen_references(person, self.references)),
        }

    def make(self, person: EvaluatedPerson) -> Made:
        """Train the person's LoRA.

        Raises:
            ValueError: A reference can't be read, or the training ended in NaN.
        """
        base, training, size = self.base.model, self.training, self.base.settings.size
        start = time.perf_counter()
        layout = base.layout(training.rank, training.feed_forward)
        latents = base.encode_images(square_pixels(seen_references(person, self.references), size)).to(base.device)
        images = PersonImages.complete(person.name, latents, torch.zeros(len(latents), dtype=torch.long))
        loss = DiffusionLoss(
            predictor(base, base.encode_text([self.caption]), size),
            base.scheduler(),
            [images],
            training.images_per_person,
            training.seed,
            training.shared_noise,
            training.min_snr_gamma,
        )
        begin = shared_start(layout).to(base.device)
        flat = train_loras(base.unet, layout, begin, 1, loss, training)[0][0].cpu()
        if not flat.isfinite().all():
            raise ValueError(f"the LoRA of {person.name} ended in NaN: lower training.learning_rate")
        return made_lora(LoRA(flat, layout, {"dreambooth": asdict(training)}), time.perf_counter() - start)

    def release(self) -> None:
        """Free nothing: the base model is shared."""
