"""DiffLoRA: a person's references → a LoRA, which then goes the way of any LoRA file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch

from difflora_core.lora.lora import LoRA
from difflora_core.model import DiffLoRA
from training.lora_dataset.fingerprints import Fingerprint, hash_file, hash_files

from ..people_folders import EvaluatedPerson, seen_references
from ..settings import MethodSettings
from .given_loras import size_of
from .shared_base import ReadyBase, SharedBase


class PredictedLoRA:
    """A checkpoint with its encoders; LoRAs are kept in a folder, where they may be used otherwise."""

    def __init__(self, base: SharedBase, settings: MethodSettings, subject: str, folder: Path) -> None:
        """Name the checkpoint; it is loaded when the first person is prepared.

        Args:
            base: The shared base model.
            settings: Of the kind difflora.
            subject: In place of {person}.
            folder: For PERSON.safetensors.
        """
        assert settings.path is not None  # the settings have checked it
        self.base, self.settings, self.subject, self.folder = base, settings, subject, folder
        self.checkpoint = settings.path
        self.references = settings.references
        self._warm = False
        self.placement = f'"{subject}" in place of {{person}}; LoRA at strength 1, recommended sampling'

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, the prompts' words, the checkpoint and the references.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: The person has too few references.
        """
        if not self.checkpoint.is_file():
            raise FileNotFoundError(f"there is no DiffLoRA checkpoint {self.checkpoint}")
        return {
            **self.base.fingerprint,
            "method.subject": self.subject,
            "method.seed": self.settings.seed,
            "checkpoint": hash_file(self.checkpoint),
            "references": hash_files(seen_references(person, self.references)),
        }

    @cached_property
    def _model(self) -> DiffLoRA:
        return DiffLoRA.load(self.checkpoint, self.base.device)

    def release(self) -> None:
        """Free the checkpoint and its encoders."""
        self.__dict__.pop("_model", None)
        self._warm = False

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator[ReadyBase]:
        """Make the person's LoRA, timed with warm models, write it and load it.

        Raises:
            FileNotFoundError: An encoder is not there.
            ValueError: A reference shows no face or can't be read.
        """
        if not self._warm:  # the first person loads the encoders, which is not timed
            self._personalize(person)
            self._warm = True
        start = time.perf_counter()
        lora = self._personalize(person)
        seconds = time.perf_counter() - start
        lora.save(path := self.folder / f"{person.name}.safetensors")
        with self.base.model.loaded_lora_file(path):
            yield ReadyBase(self.base, self.subject, size_of(path, seconds))

    def _personalize(self, person: EvaluatedPerson) -> LoRA:
        return self._model.personalize(
            list(seen_references(person, self.references)),
            generator=torch.Generator().manual_seed(self.settings.seed),
            face_root=self.settings.face_models,
            image_encoder=self.settings.image_encoder,
        )
