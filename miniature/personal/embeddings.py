"""Embeddings of people's images by the frozen encoders: what MIF is trained on.

Faces are cropped by the true landmarks with a little jitter, as for the recognizer's training, since running the
detector on 19,200 images would take long; evaluation and nodes run the real detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from difflora_core.files import read_tensors, write_tensors
from miniature.encoders import clip_vision
from miniature.encoders.faces.alignment import aligned_crop, alignment, jittered
from miniature.encoders.faces.face_analysis import load_face_analysis
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import TEACHER_IMAGES, training_scene
from training.people.conditions import Conditions


def embed_people(path: Path, people: Sequence[int], images: int = TEACHER_IMAGES) -> None:
    """Write face (people, images, 512), image (people, images, width), person (people,) to a file, unless it exists.

    Raises:
        ValueError: The file exists and holds other people.
    """
    if path.exists():
        load_conditions_of(path, people)
        return
    recognizer = load_face_analysis("miniature").models["recognition"]
    tower, preprocess = clip_vision.load_image_encoder()
    faces, features = [], []
    for index in tqdm(people, desc=f"embeddings {path.stem}", mininterval=10):
        drawings = [draw(person(index), training_scene(index, k)) for k in range(images)]
        # The shipped DiffLoRA was trained on embeddings of crops with this jitter
        landmarks = jittered(np.stack([d.landmarks for d in drawings]), np.random.default_rng([3, index]), 0.5)
        crops = [aligned_crop(d.image, t)[..., ::-1] for d, t in zip(drawings, alignment(landmarks), strict=True)]
        faces.append(torch.from_numpy(recognizer.get_feat(crops)))
        pixels = preprocess(images=[Image.fromarray(d.image) for d in drawings], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            features.append(tower(pixel_values=pixels).image_embeds)
    tensors = {"face": torch.stack(faces), "image": torch.stack(features), "person": torch.tensor(list(people))}
    write_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()})


def load_conditions(path: Path) -> tuple[Conditions, torch.Tensor]:
    """Read embeddings, and person indices (people,)."""
    tensors = read_tensors(path)[0]
    return Conditions(tensors["face"], tensors["image"]), tensors["person"]


def load_conditions_of(path: Path, people: Sequence[int]) -> Conditions:
    """Read the embeddings of exactly these people, in their order.

    Raises:
        ValueError: The file holds other people, or the same in another order.
    """
    conditions, found = load_conditions(path)
    if found.tolist() != list(people):
        raise ValueError(
            f"{path} holds the embeddings of {_described(found.tolist())}, expected were those of "
            f"{_described(people)}, as the teachers have them: delete the file and build again"
        )
    return conditions


def _described(people: Sequence[int]) -> str:
    return f"{len(people)} people ({people[0]} to {people[-1]})" if people else "nobody"
