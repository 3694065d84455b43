"""InstantID (Wang et al., arXiv 2401.07519): a reference's face embedding, and a face's keypoints as its pose."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflora_core.encoders.face_encoder import NoFaceError
from difflora_core.images import read_image
from difflora_core.seeds import generator_for
from training.instantid.instantid_files import ADAPTER, CONTROL, WEIGHTS, read_instantid
from training.instantid.instantid_pipeline import InstantIDPipeline, Sampler, Strengths
from training.instantid.keypoint_image import keypoint_image
from training.lora_dataset.fingerprints import Fingerprint, hash_files

from ..method_settings import MethodSettings
from ..people_folders import EvaluatedPerson, seen_references
from .method import ImageRequest, MadeImage, Preparation
from .own_copy import OnOwnCopy
from .shared_base import SharedBase, as_image

FILES = (ADAPTER, f"{CONTROL}/config.json", f"{CONTROL}/{WEIGHTS}")
OFF = Strengths(0.0, 0.0)
POSES = {
    "reference": "keypoints of the first reference",
    "prompt": "keypoints of the base model's image of the same prompt and noise, of the first reference where it "
    "shows no face",
}


class InstantIDMethod(OnOwnCopy[InstantIDPipeline]):
    """The official files, in a folder."""

    def __init__(self, base: SharedBase, settings: MethodSettings, subject: str) -> None:
        """Name the files, see the base class."""
        super().__init__(base, settings, subject)
        self.strengths = Strengths(settings.adapter_scale, settings.control_scale)
        self.placement = (
            f'"{subject}" in place of {{person}}; mean of the references\' face embeddings, adapter at '
            f"{self.strengths.adapter:g}, IdentityNet at {self.strengths.control:g}; {POSES[settings.pose]}"
        )

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the base model, InstantID's files, the face models and the references.

        Raises:
            FileNotFoundError: One of the files is not there.
            ValueError: The person has too few references.
        """
        files = [self.path / name for name in FILES]
        pickled = files[0].with_suffix(".bin").is_file()
        if missing := [path for path in files if not path.is_file() and not (pickled and path == files[0])]:
            raise FileNotFoundError(f"there is no {missing[0]}, of InstantID's files")
        if not files[0].is_file():
            read_instantid(self.path)  # says why the pickle is not read
        return {
            **self.base.fingerprint,
            "method.subject": self.subject,
            "method.face_pack": self.settings.pack,
            "face models": self.face_models_hash(),
            "method.adapter_scale": self.strengths.adapter,
            "method.control_scale": self.strengths.control,
            "method.pose": self.settings.pose,
            "InstantID's files": hash_files(files),
            "references": hash_files(seen_references(person, self.references)),
        }

    def open_pipeline(self) -> InstantIDPipeline:
        """Put InstantID's adapter into a copy of the base model.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: The files are of another base model.
        """
        instantid = read_instantid(self.path)  # before the base model, which takes long
        return InstantIDPipeline(self.base.open_copy(), instantid)

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator["ReadyInstantID"]:
        """Embed the references' faces, timed with warm models.

        Raises:
            FileNotFoundError: A model is not there.
            ValueError: A reference shows no face or can't be read.
        """
        pipeline = self.pipeline
        self._identity(person)
        start = time.perf_counter()
        embedding, keypoints = self._identity(person)
        preparation = Preparation(time.perf_counter() - start, embedding.numel(), 2 * embedding.numel())
        yield ReadyInstantID(self, pipeline, embedding, keypoints, preparation)

    def _identity(self, person: EvaluatedPerson) -> tuple[Tensor, np.ndarray]:
        """Return the mean embedding (width,), and the picture of the first reference's keypoints."""
        paths = seen_references(person, self.references)
        images = [np.asarray(read_image(path)) for path in paths]
        faces = [self.faces.find(image, str(path)) for image, path in zip(images, paths, strict=True)]
        landmarks = faces[0].landmarks
        assert landmarks is not None  # the face was detected
        embedding = torch.stack([face.embedding for face in faces]).mean(0)
        return embedding, keypoint_image(in_square(landmarks.numpy(), images[0].shape, self.size), self.size)

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.base.settings.size

    def find_pose(self, image: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """Return the picture of the keypoints in an image, uint8 (size, size, 3); `otherwise`, where it has no face."""
        try:
            landmarks = self.faces.find(image).landmarks
        except NoFaceError:
            return otherwise
        assert landmarks is not None  # the face was detected
        return keypoint_image(landmarks.numpy(), self.size)


def in_square(landmarks: np.ndarray, shape: Sequence[int], size: int) -> np.ndarray:
    """Return where landmarks (n, 2) of an image (height, width, …) are in its center square of `size` pixels.

    Raises:
        ValueError: One is outside.
    """
    height, width = shape[:2]
    side = min(height, width)
    found = (landmarks - np.array([(width - side) / 2, (height - side) / 2])) * size / side
    if found.min() < 0 or found.max() >= size:
        raise ValueError("the first reference's face is outside its center square, and would be so in the images")
    return found


@dataclass(frozen=True)
class ReadyInstantID:
    """InstantID with a person's face."""

    method: InstantIDMethod
    """Whose settings are used."""
    pipeline: InstantIDPipeline
    """The pipeline."""
    embedding: Tensor
    """(width,), as the recognizer gives it."""
    keypoints: np.ndarray
    """Of the first reference, uint8 (size, size, 3)."""
    preparation: Preparation
    """What it took."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the preparation took; the file's size is that of the embedding in half precision."""
        return asdict(self.preparation)

    def generate(self, requests: Sequence[ImageRequest]) -> list[MadeImage]:
        """Generate images.

        Raises:
            RuntimeError: An image is not finite.
        """
        start, keypoints = time.perf_counter(), [self.keypoints] * len(requests)
        if self.method.settings.pose == "prompt":
            plain = self._generate(requests, keypoints, OFF)
            keypoints = [self.method.find_pose(np.asarray(as_image(image)), self.keypoints) for image in plain]
        images = self._generate(requests, keypoints, self.method.strengths)
        seconds = (time.perf_counter() - start) / len(requests)
        return [MadeImage(as_image(image), seconds) for image in images]

    def _generate(
        self, requests: Sequence[ImageRequest], keypoints: Sequence[np.ndarray], strengths: Strengths
    ) -> Tensor:
        settings = self.method.base.settings
        return self.pipeline.generate(
            [request.prompt.of(self.method.subject) for request in requests],
            settings.negative,
            self.embedding,
            keypoints,
            [generator_for(request.noise_seed, "generate", 0) for request in requests],  # the shared base model's noise
            Sampler(settings.size, settings.steps, settings.guidance_scale),
            strengths,
        )
