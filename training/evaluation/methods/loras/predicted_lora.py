"""DiffLoRA: a person's references → a LoRA."""

import time
from functools import cached_property
from pathlib import Path

import torch

from difflora_core.lora.lora import LoRA
from difflora_core.model import DiffLoRA
from training.lora_dataset.fingerprints import Fingerprint, hash_file, hash_files

from ...method_settings import MethodSettings
from ...people_folders import EvaluatedPerson, seen_references
from ..made_files import Made
from ..shared_base import SharedBase
from .encoder_files import hash_encoders
from .made_loras import MadeLoRAs, made_lora


class PredictedLoRAs(MadeLoRAs):
    """A checkpoint with its encoders."""

    def __init__(self, base: SharedBase, settings: MethodSettings, subject: str, folder: Path) -> None:
        """Name the checkpoint; it is loaded when the first person is prepared.

        Args:
            base: The shared base model.
            settings: Of the kind difflora.
            subject: In place of {person}.
            folder: For PERSON.safetensors.
        """
        super().__init__(base, subject, folder)
        self.settings, self.checkpoint, self.references = settings, settings.given_path, settings.references
        self.placement = f'"{subject}" in place of {{person}}; LoRA at strength 1, recommended sampling'
        if settings.mode is not None:
            self.placement += f", MIF in mode {settings.mode}"
        self._warm = False

    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the checkpoint, its encoders and the references.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: It is no checkpoint, or the person has too few references.
        """
        if not self.checkpoint.is_file():
            raise FileNotFoundError(f"there is no DiffLoRA checkpoint {self.checkpoint}")
        return {
            "method.seed": self.settings.seed,
            "method.mode": self.settings.mode,
            "checkpoint": hash_file(self.checkpoint),
            **hash_encoders(self.settings),
            "references": hash_files(seen_references(person, self.references)),
        }

    @cached_property
    def _model(self) -> DiffLoRA:
        return DiffLoRA.load(self.checkpoint, self.base.device)

    def release(self) -> None:
        """Free the checkpoint and its encoders."""
        self.__dict__.pop("_model", None)
        self._warm = False

    def make(self, person: EvaluatedPerson) -> Made:
        """Make the person's LoRA, timed with warm models.

        Raises:
            FileNotFoundError: An encoder is not there.
            ValueError: No reference shows a face that can be read; others are left out.
        """
        return made_lora(*self.predict(person))

    def predict(self, person: EvaluatedPerson) -> tuple[LoRA, float]:
        """Predict the person's LoRA, and the seconds that it took; it fails as `make` does."""
        if not self._warm:  # the first person loads the encoders, which is not timed
            self._personalize(person)
            self._warm = True
        start = time.perf_counter()
        lora = self._personalize(person)
        return lora, time.perf_counter() - start

    def _personalize(self, person: EvaluatedPerson) -> LoRA:
        return self._model.personalize(
            list(seen_references(person, self.references)),
            generator=torch.Generator().manual_seed(self.settings.seed),
            face_root=self.settings.face_models,
            image_encoder=self.settings.image_encoder,
            unusable="skip",
            mode=self.settings.mode,
        )
