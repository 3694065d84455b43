"""Textual Inversion on the references that others see, too. Each person is trained alone: the time is that of one."""

import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from math import prod
from pathlib import Path

from difflora_core.files import read_shapes, read_tensors
from training.lora_dataset.fingerprints import Fingerprint, hash_files
from training.textual_inversion.config import NO_EFFECT
from training.textual_inversion.train import TOKEN, train_token

from ..method_settings import MethodSettings
from ..people_folders import EvaluatedPerson, seen_references
from .made_files import Made, MadeFiles
from .method import Preparation
from .reference_pixels import square_pixels
from .shared_base import ReadyBase, SharedBase


class LearnedTokens(MadeFiles):
    """FOLDER/PERSON.safetensors with `clip_l` and `clip_g`, which ComfyUI reads as `embedding:PERSON`."""

    def __init__(self, base: SharedBase, settings: MethodSettings, class_word: str, folder: Path) -> None:
        """Take the settings of training.

        Args:
            base: The shared base model.
            settings: Of the kind textual_inversion.
            class_word: From whose embedding training starts.
            folder: For PERSON.safetensors.
        """
        super().__init__(base, TOKEN, folder)
        self.class_word, self.training, self.references = class_word, settings.textual_inversion, settings.references
        self.placement = (
            f"the learned token in place of {{person}}, in prompts and in {len(self.training.captions)} captions such "
            f'as "{self.training.captions[0]}"; vectors in each text encoder: {self.training.vectors}, from '
            f'"{class_word}" on; {self.training.steps} steps, learning rate {self.training.learning_rate:g}'
        )

    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, the settings of training and the references.

        Raises:
            FileNotFoundError: There is no base model.
            ValueError: The person has too few references.
        """
        training = {name: value for name, value in asdict(self.training).items() if name not in NO_EFFECT}
        training["captions"] = list(self.training.captions)
        return {
            **self.base.training_fingerprint,
            **{f"method.textual_inversion.{name}": value for name, value in training.items()},
            "method.class_word": self.class_word,
            "references": hash_files(seen_references(person, self.references)),
        }

    def make(self, person: EvaluatedPerson) -> Made:
        """Train the person's token.

        Raises:
            ValueError: A reference can't be read, the class word is several tokens, or the training ended in NaN.
        """
        base, size, start = self.base.model, self.base.settings.size, time.perf_counter()
        latents = base.encode_images(square_pixels(seen_references(person, self.references), size))
        vectors = train_token(base, person.name, latents, size, self.class_word, self.training)
        return Made(vectors, {}, time.perf_counter() - start)

    def loaded(self, path: Path) -> AbstractContextManager[None]:
        """While open, the base model knows the token.

        Raises:
            ValueError: The file is of another base model.
        """
        return self.base.model.added_token(TOKEN, read_tensors(path)[0])

    def ready(self, path: Path, seconds: float | None) -> ReadyBase:
        """Return the shared base model, with the file's size."""
        parameters = sum(map(prod, read_shapes(path)[0].values()))
        return ReadyBase(self.base, self.subject, Preparation(seconds, parameters, path.stat().st_size))

    def release(self) -> None:
        """Free nothing: the base model is shared."""
