"""Metrics of images: do they show the person, do they show what the prompt says, and how well are they drawn?

Face similarity is the cosine of embeddings of the measuring recognizer, which no part of the model was trained with.
Prompt fidelity is the share of the prompt's attributes that the judge finds. Traits are what one looks for first in a
portrait: color of the eyes, freckles, beard.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from insightface.app import FaceAnalysis
from PIL import Image

from miniature.base_model.vae import to_pixels
from miniature.encoders.faces.face_analysis import load_face_analysis
from miniature.paths import WEIGHTS
from miniature.world.people import eye_word, person
from miniature.world.scenes import Scene

from .eye_judge import EyeJudge, load_eye_judge, measure_eyes
from .judge import AttributeJudge, attribute_indices, load_judge, trait_indices

AnyImage = Image.Image | np.ndarray


@cache
def _measuring_recognizer() -> FaceAnalysis:
    return load_face_analysis("measuring")


@cache
def _judge() -> AttributeJudge:
    return load_judge(WEIGHTS)


@cache
def _eye_judge() -> EyeJudge:
    return load_eye_judge(WEIGHTS)


def _as_array(image: AnyImage) -> np.ndarray:
    """uint8 (height, width, 3) RGB."""
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def embed_faces(images: Sequence[AnyImage]) -> np.ndarray:
    """Unit-length embeddings of the largest face of each image: float32 (n, 512); zeros where no face is found."""
    rows = np.zeros((len(images), 512), dtype=np.float32)
    for row, face in enumerate(map(_largest_face, images)):
        if face is not None:
            rows[row] = face.normed_embedding
    return rows


def _largest_face(image: AnyImage) -> Any | None:
    """The largest face, with its embedding and landmarks, or None."""
    faces = _measuring_recognizer().get(np.ascontiguousarray(_as_array(image)[..., ::-1]))
    return max(faces, key=lambda f: (f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1]), default=None)


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


@torch.no_grad()
def right_traits(images: np.ndarray, people: Sequence[int]) -> dict[str, np.ndarray]:
    """Whether images show the traits of drawn people, and two equal eyes.

    Args:
        images: uint8 (n, 128, 128, 3).
        people: The person that each is to show.

    Returns:
        float64 (n,), 0 or 1, by name: "eye color", "freckles", "beard", "eyes agree" (one color and one size of both).
        Without a face the eyes are wrong.
    """
    logits, expected = _judge()(to_pixels(images)), trait_indices(people)
    found = {name: (logits[name].argmax(1) == expected[name]).double().numpy() for name in expected}
    color, agree = np.zeros(len(images)), np.zeros(len(images))
    for row, (image, index) in enumerate(zip(images, people, strict=True)):
        face = _largest_face(image)
        if face is not None:
            eyes = measure_eyes(_eye_judge(), image[None], face.kps[None])
            color[row] = eyes.words()[0] == eye_word(person(index))
            agree[row] = eyes.agree()[0]
    return {"eye color": color, **found, "eyes agree": agree}


def sharpness(images: np.ndarray) -> float:
    """Mean variance of the Laplacian of gray images uint8 (n, h, w, 3): a blurred image has a low one."""
    gray = images.astype(np.float32).mean(-1)
    # Without the border, where OpenCV invents the pixels beyond the image
    return float(np.mean([cv2.Laplacian(one, cv2.CV_32F)[1:-1, 1:-1].var(ddof=1) for one in gray]))
