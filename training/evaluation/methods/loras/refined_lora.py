"""DiffLoRA, then some steps of DreamBooth from there, as the node Refine LoRA does it."""

import time
from dataclasses import asdict
from pathlib import Path

from difflora_core.config import RefinementSettings
from training.dreambooth.refine import refine_lora
from training.lora_dataset.fingerprints import Fingerprint

from ...method_settings import MethodSettings
from ...people_folders import EvaluatedPerson, seen_references
from ...prompt_list import PERSON
from ..made_files import Made
from ..reference_pixels import square_pixels
from ..shared_base import SharedBase
from .made_loras import made_lora
from .predicted_lora import PredictedLoRAs


class RefinedLoRAs(PredictedLoRAs):
    """A predicted LoRA, trained further on the references that it was predicted from."""

    def __init__(
        self, base: SharedBase, settings: MethodSettings, refinement: RefinementSettings, subject: str, folder: Path
    ) -> None:
        """Name the checkpoint; it is loaded when the first person is prepared.

        Args:
            base: The shared base model.
            settings: Of the kind difflora.
            refinement: How long and how fast.
            subject: In place of {person}, in prompts and in the caption of the references.
            folder: For PERSON.safetensors.
        """
        super().__init__(base, settings, subject, folder)
        self.refinement, self.caption = refinement, settings.caption.replace(PERSON, subject)
        self.placement += (
            f'; refined on the same references with the caption "{self.caption}", {refinement.steps} steps, learning '
            f"rate {refinement.learning_rate:g}"
        )

    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Of what the predicted LoRA is made from, the base model and the settings of the refinement.

        Raises:
            FileNotFoundError: There is no checkpoint, or no base model.
            ValueError: The person has too few references.
        """
        return {
            **super().origin(person),
            **self.base.training_fingerprint,
            **{f"method.refinement.{name}": value for name, value in asdict(self.refinement).items()},
            "method.caption": self.caption,
        }

    def make(self, person: EvaluatedPerson) -> Made:
        """Predict and refine the person's LoRA.

        Raises:
            FileNotFoundError: An encoder is not there.
            ValueError: No reference shows a face, one can't be read, or the refinement diverged.
        """
        base, size = self.base.model, self.base.settings.size
        lora, seconds = self.predict(person)
        start = time.perf_counter()
        latents = base.encode_images(square_pixels(seen_references(person, self.references), size))
        refined = refine_lora(base, lora, latents, self.caption, size, self.refinement, self.settings.seed)
        return made_lora(refined, seconds + time.perf_counter() - start)
