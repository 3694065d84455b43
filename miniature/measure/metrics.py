"""Metrics of images: do they show the person, and do they show what the prompt says?

Face similarity is the cosine of embeddings of the measuring recognizer, which no part of the model was trained with.
Prompt fidelity is the share of the prompt's attributes that the judge finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from insightface.app import FaceAnalysis
from PIL import Image

from miniature.base_model.vae import to_pixels
from miniature.encoders.faces.face_analysis import load_face_analysis
from miniature.paths import WEIGHTS
from miniature.world.scenes import Scene

from .judge import AttributeJudge, attribute_indices, load_judge

AnyImage = Image.Image | np.ndarray


@cache
def _measuring_recognizer() -> FaceAnalysis:
    return load_face_analysis("measuring")


@cache
def _judge() -> AttributeJudge:
    return load_judge(WEIGHTS)


def _as_array(image: AnyImage) -> np.ndarray:
    """uint8 (height, width, 3) RGB."""
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def embed_faces(images: Sequence[AnyImage]) -> np.ndarray:
    """Unit-length embeddings of the largest face of each image: float32 (n, 512); zeros where no face is found."""
    rows = np.zeros((len(images), 512), dtype=np.float32)
    for row, image in enumerate(images):
        faces = _measuring_recognizer().get(np.ascontiguousarray(_as_array(image)[..., ::-1]))
        if faces:
            largest = max(faces, key=lambda f: (f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1]))
            rows[row] = largest.normed_embedding
    return rows


def face_similarity(images: Sequence[AnyImage] | np.ndarray, references: Sequence[AnyImage]) -> np.ndarray:
    """Cosine of each image's face with the mean of a person's references: (n,); 0 where no face is found.

    Raises:
        ValueError: No reference shows a face.
    """
    mean = embed_faces(references).mean(0)
    length = float(np.linalg.norm(mean))
    if length == 0.0:
        raise ValueError(f"none of the {len(references)} reference images shows a face that the detector finds")
    return embed_faces(list(images)) @ (mean / length)


@torch.no_grad()
def prompt_fidelity(images: Sequence[AnyImage] | np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Share of each scene's attributes that the judge finds in the image of 128 × 128: float64 (n,) in [0, 1]."""
    logits = _judge()(to_pixels(np.stack([_as_array(image) for image in images])))
    expected = attribute_indices(scenes)
    found = torch.stack([logits[name].argmax(1) == expected[name] for name in expected])
    return found.double().mean(0).numpy()
