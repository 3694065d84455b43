"""Measuring: does a picture show the person, and does it show what the prompt says?

Face similarity is the raw cosine of the measuring recognizer, which no part of the model was trained with; a picture in
which no face is found counts as 0. Prompt fidelity is the share of the prompt's attributes that the judge sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from insightface.app import FaceAnalysis
from PIL import Image
from torch import Tensor

from difflora_core.lora.layout import LoRALayout
from miniature.base_model.model import BaseModel, Tokenizer, sample_latents
from miniature.base_model.vae import TinyVAE
from miniature.encoders.faces import face_analysis
from miniature.paths import WEIGHTS
from miniature.world.people import Scene, caption
from training.base_model.batched_loras import stacked_loras

from . import judge

Picture = Image.Image | np.ndarray


@cache
def _measuring() -> FaceAnalysis:
    return face_analysis("measuring")


@cache
def _judge() -> judge.Judge:
    return judge.load_judge(WEIGHTS)


def embed_faces(pictures: Sequence[Picture]) -> np.ndarray:
    """Unit-length embeddings of the largest face of each picture: float32 (n, 512); zeros where no face is found."""
    rows = np.zeros((len(pictures), 512), dtype=np.float32)
    for row, picture in enumerate(pictures):
        pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
        faces = _measuring().get(np.ascontiguousarray(pixels[..., ::-1]))
        if faces:
            largest = max(faces, key=lambda f: (f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1]))
            rows[row] = largest.normed_embedding
    return rows


def face_similarity(pictures: Sequence[Picture], references: Sequence[Picture]) -> np.ndarray:
    """Raw cosine of each picture with the mean of one person's reference pictures: (n,).

    Raises ValueError if no reference shows a face.
    """
    mean = embed_faces(references).mean(0)
    length = float(np.linalg.norm(mean))
    if length == 0.0:
        raise ValueError(f"none of the {len(references)} reference pictures shows a face that the detector finds")
    return embed_faces(pictures) @ (mean / length)


def prompt_fidelity(pictures: Sequence[Picture], scenes: Sequence[Scene]) -> np.ndarray:
    """Share of each prompt's attributes that its picture shows: (n,)."""
    pixels = np.stack([np.asarray(p.convert("RGB") if isinstance(p, Image.Image) else p) for p in pictures])
    return judge.prompt_fidelity(_judge(), pixels, scenes)


@torch.no_grad()
def make_pictures(
    base: BaseModel,
    vae: TinyVAE,
    tokenizer: Tokenizer,
    layout: LoRALayout,
    loras: Tensor,
    scenes: Sequence[Scene],
    seed: int = 0,
) -> np.ndarray:
    """Pictures of people by their LoRAs (people, numel), without ComfyUI: uint8 (people, scenes, 128, 128, 3).

    For choosing settings on validation people; figures that are reported come from ComfyUI.
    """
    made = []
    for chunk in loras.split(5):
        condition = base.encode(tokenizer([caption(s) for s in scenes] * len(chunk)))
        # With guidance a batch holds each person's rows twice: once with the text and once without
        empty = base.encode(tokenizer([""])).repeat(len(condition.pooled))
        generator = torch.Generator().manual_seed(seed)
        with stacked_loras(base.unet, layout, torch.cat([chunk, chunk])):
            latents = sample_latents(base, condition, empty, generator)
        pictures = vae.decode(latents).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
        made.append(pictures.reshape(len(chunk), len(scenes), *pictures.shape[1:]))
    return np.concatenate(made)
