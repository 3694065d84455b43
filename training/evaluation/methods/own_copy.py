"""Methods that change the U-Net, and so have a copy of the base model of their own, and a face encoder."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Generic, TypeVar

import torch

from difflora_core.encoders.face_encoder import FaceEncoder, providers_for
from training.lora_dataset.config import FacesConfig
from training.lora_dataset.fingerprints import hash_face_models

from ..method_settings import MethodSettings
from .shared_base import SharedBase

Pipeline = TypeVar("Pipeline")


class OnOwnCopy(ABC, Generic[Pipeline]):
    """Pipeline and face encoder are loaded when they are needed, and freed together."""

    def __init__(self, base: SharedBase, settings: MethodSettings, subject: str) -> None:
        """Name the files; they are loaded when the first person is prepared.

        Args:
            base: Whose folder and settings are used.
            settings: With the path of the method's files and the folder of face models.
            subject: In place of {person}.
        """
        assert settings.face_models is not None  # the settings have checked it
        self.base, self.settings, self.subject = base, settings, subject
        self.path, self.face_models, self.references = settings.given_path, settings.face_models, settings.references

    @abstractmethod
    def open_pipeline(self) -> Pipeline:
        """Load the method's files, and put them into a copy of the base model.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: The files are of another model.
        """

    @cached_property
    def pipeline(self) -> Pipeline:
        """See `open_pipeline`."""
        return self.open_pipeline()

    @cached_property
    def faces(self) -> FaceEncoder:
        """The face encoder of the settings' pack, on the base model's device as DiffLoRA's is."""
        return FaceEncoder.open(self.settings.pack, self.face_models, providers_for(torch.device(self.base.device)))

    def face_models_hash(self) -> str:
        """Hash the files of `faces`."""
        return hash_face_models(FacesConfig(self.settings.pack, self.face_models))

    def release(self) -> None:
        """Free the copy of the base model, and the face models."""
        for name in ("pipeline", "faces"):
            self.__dict__.pop(name, None)
