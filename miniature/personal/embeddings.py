"""Stage `conditions`: the frozen encoders' embeddings of people's pictures, what MIF is trained on.

Faces are cut out by the true landmarks with a little jitter instead of running the detector 19,200 times: the
recognizer was trained so, and evaluation and nodes run the real detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from miniature.encoders import clip_vision
from miniature.encoders.faces import face_analysis
from miniature.encoders.faces.alignment import aligned_crop, alignment, jittered
from miniature.world.drawing import draw
from miniature.world.image_blocks import TEACHER_PICTURES, scene_of
from miniature.world.people import person
from training.denoiser.command import Conditions


def embed_people(path: Path, people: Sequence[int], pictures: int = TEACHER_PICTURES) -> None:
    """Write face (people, pictures, 512), image (people, pictures, width) and person (people,), unless it exists."""
    if path.exists():
        return
    recognizer = face_analysis("miniature").models["recognition"]
    tower, preprocess = clip_vision.load_image_encoder()
    faces, images = [], []
    for index in tqdm(people, desc=f"embeddings {path.stem}", mininterval=10):
        drawn = [draw(person(index), scene_of(index, k)) for k in range(pictures)]
        landmarks = jittered(np.stack([d.landmarks for d in drawn]), np.random.default_rng([3, index]), 0.5)
        crops = [aligned_crop(d.image, t)[..., ::-1] for d, t in zip(drawn, alignment(landmarks), strict=True)]
        faces.append(torch.from_numpy(recognizer.get_feat(crops)))
        pixels = preprocess(images=[Image.fromarray(d.image) for d in drawn], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            images.append(tower(pixel_values=pixels).image_embeds)
    tensors = {"face": torch.stack(faces), "image": torch.stack(images), "person": torch.tensor(list(people))}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({key: value.contiguous() for key, value in tensors.items()}, partial)
    partial.replace(path)


def load_conditions(path: Path) -> tuple[Conditions, torch.Tensor]:
    """Embeddings and person indices (people,)."""
    tensors = load_file(path)
    return Conditions(tensors["face"], tensors["image"]), tensors["person"]
