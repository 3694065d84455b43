"""PhotoMaker v1 (Li et al., arXiv 2312.04461): references → identity embeddings in place of the class word."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflora_core.images import read_image
from difflora_core.seeds import derive_seed
from training.lora_dataset.fingerprints import Fingerprint, hash_file, hash_files
from training.lora_dataset.images.reference_crops import crop_face
from training.lora_dataset.photomaker.photomaker_file import read_photomaker
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline, Sampling

from ..method_settings import MethodSettings
from ..people_folders import EvaluatedPerson, seen_references
from .method import ImageRequest, MadeImage, Preparation
from .own_copy import OnOwnCopy
from .shared_base import SharedBase


class PhotoMakerV1(OnOwnCopy[PhotoMakerPipeline]):
    """The official file; the class word is the trigger, whose place the identity takes."""

    def __init__(self, base: SharedBase, settings: MethodSettings, class_word: str) -> None:
        """Name the files, see the base class."""
        super().__init__(base, settings, class_word)
        self.placement = (
            f'"{class_word}" in place of {{person}}, its embedding fused with the references; merged after '
            f"{settings.style_strength} % of the steps"
        )

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, PhotoMaker's file, the face models and the references.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The person has too few references.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no PhotoMaker file {self.path}")
        return {
            **self.base.fingerprint,
            "method.subject": self.subject,
            "method.style_strength": self.settings.style_strength,
            "method.face_pack": self.settings.pack,
            "face models": self.face_models_hash(),
            "PhotoMaker file": hash_file(self.path),
            "references": hash_files(seen_references(person, self.references)),
        }

    def open_pipeline(self) -> PhotoMakerPipeline:
        """Put PhotoMaker's LoRA into a copy of the base model.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is another model's.
        """
        photomaker = read_photomaker(self.path)  # before the base model, which takes long
        return PhotoMakerPipeline(self.base.open_copy(), photomaker)

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator["ReadyPhotoMaker"]:
        """Crop the references around the face and embed them, timed with warm models.

        Raises:
            FileNotFoundError: A model is not there.
            ValueError: A reference shows no face or can't be read.
        """
        self._identity(person)
        start = time.perf_counter()
        identity = self._identity(person)
        preparation = Preparation(time.perf_counter() - start, identity.numel(), 2 * identity.numel())
        yield ReadyPhotoMaker(self.pipeline, self.base, self.subject, self.settings, identity, preparation)

    def _identity(self, person: EvaluatedPerson) -> Tensor:
        crops = []
        for path in seen_references(person, self.references):
            pixels = np.asarray(read_image(path))
            face = self.faces.find(pixels, str(path))
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255.0
            crops.append(crop_face(image, face.boxes[face.chosen, :4].tolist()))
        return self.pipeline.identity(crops).cpu()


@dataclass(frozen=True)
class ReadyPhotoMaker:
    """PhotoMaker with a person's identity."""

    pipeline: PhotoMakerPipeline
    """The pipeline."""
    base: SharedBase
    """Whose settings are used."""
    class_word: str
    """Whose place the identity takes."""
    settings: MethodSettings
    """The method's."""
    identity: Tensor
    """(references, width)."""
    preparation: Preparation
    """What it took."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the preparation took; the file's size is that of the embeddings in half precision."""
        return asdict(self.preparation)

    def generate(self, requests: Sequence[ImageRequest]) -> list[MadeImage]:
        """Generate images.

        Raises:
            ValueError: A prompt has the class word not at all, or too late.
            RuntimeError: An image is not finite.
        """
        settings, start = self.base.settings, time.perf_counter()
        images = self.pipeline.generate(
            [request.prompt.of(self.class_word) for request in requests],
            settings.negative,
            self.class_word,
            self.identity.to(self.pipeline.base.device),
            [derive_seed(request.noise_seed, "generate", 0) for request in requests],  # the shared base model's noise
            Sampling(settings.size, settings.steps, settings.guidance_scale, self.settings.style_strength),
        )
        seconds = (time.perf_counter() - start) / len(requests)
        return [MadeImage(image, seconds) for image in images]
