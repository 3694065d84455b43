"""Stage `image_encoder`: train the CLIP vision tower on drawn images and captions.

The captions name looks (`people.describe`) and scene (`scenes.caption`). The text tower exists only here: words are
averaged to clauses, clauses to captions. Two contrastive losses: CLIP's over whole captions with some clauses left out
(Radford et al., 2021), and SigLIP's over single clauses (Zhai et al., 2023), with which a small tower is good at fine
distinctions after a few hundred steps.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from miniature.encoders.faces.degradation import degrade
from miniature.encoders.faces.face_images import FaceImages, open_face_images
from miniature.world.people import describe, person
from miniature.world.scenes import Scene, caption, training_scene
from training.engine.config import TrainConfig
from training.engine.loop import train

from .clip_vision import preprocess, save_image_encoder, vision_config

PEOPLE = range(0, 4800)
BATCH = 96
DROP = 0.3
"""Share of a caption's clauses that is left out."""
SHIFT = 5
"""Random shift in pixels, at most."""
TRAINING = TrainConfig(steps=520, learning_rate=1.5e-3, warmup=60, weight_decay=0.05, ema=0.99, save_every=50, seed=31)


def train_image_encoder(build: Path, weights: Path) -> None:
    """Train (resumable, state in build/faces) and save weights/clip_vision/miniature."""
    images = open_face_images(build, PEOPLE)
    torch.manual_seed(TRAINING.seed)
    model = CaptionedImages(vocabulary())

    def loss(module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
        batch, captions = draw_batch(images, rng)
        return module(preprocess(batch), captions, rng)

    train(model, loss, TRAINING, build / "faces", "image_encoder")
    save_image_encoder(model.vision.eval(), weights / "clip_vision" / "miniature")


def draw_batch(images: FaceImages, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Degraded, shifted images, uint8 (batch, 128, 128, 3), and their captions. Not mirrored: captions say left."""
    rows = rng.choice(len(images.people), BATCH, replace=False)
    columns = rng.integers(images.per_person, size=BATCH)
    batch = []
    for row, column in zip(rows, columns, strict=True):
        padded = np.pad(degrade(images.image(row, column), rng), ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "edge")
        top, left = rng.integers(2 * SHIFT + 1, size=2)
        batch.append(padded[top : top + 128, left : left + 128])
    return np.stack(batch), [
        clauses_of(int(images.people[row]), int(column)) for row, column in zip(rows, columns, strict=True)
    ]


@lru_cache(maxsize=40000)
def clauses_of(index: int, image: int) -> tuple[str, ...]:
    """Clauses of the full caption of a training image."""
    return clauses_in(index, training_scene(index, image))


def clauses_in(index: int, scene: Scene) -> tuple[str, ...]:
    """Clauses of the full caption of a person in a scene: scene without the class word, then looks."""
    return (*caption(scene).split(", ")[1:], *describe(person(index)).split(", "))


def vocabulary() -> list[str]:
    """All clauses that captions are made of, in alphabetical order; the first 600 people have them all."""
    return sorted({clause for index in range(600) for image in range(6) for clause in clauses_of(index, image)})


class CaptionedImages(nn.Module):
    """Vision tower, text tower and the losses between them."""

    spelling: Tensor
    """Share of each word in each clause: (clauses, words)."""

    def __init__(self, clauses: list[str]) -> None:
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(vision_config())
        width = self.vision.config.projection_dim
        words = sorted({word for clause in clauses for word in clause.split()})
        spelling = torch.zeros(len(clauses), len(words))
        for row, clause in enumerate(clauses):
            for word in clause.split():
                spelling[row, words.index(word)] = 1.0
        self.register_buffer("spelling", spelling / spelling.sum(1, keepdim=True))  # (clauses, words)
        self.rows = {clause: row for row, clause in enumerate(clauses)}
        self.words = nn.Embedding(len(words), width)
        self.text = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.caption_scale = nn.Parameter(torch.tensor(2.3))  # logarithms, as in CLIP and SigLIP
        self.clause_scale = nn.Parameter(torch.tensor(2.3))
        self.clause_bias = nn.Parameter(torch.full((len(clauses),), -3.0))

    def forward(
        self, pixels: Tensor, captions: list[tuple[str, ...]], rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Normalized images (n, 3, 128, 128) and n captions → loss and metrics."""
        image = F.normalize(self.vision(pixel_values=pixels).image_embeds)  # (n, width)
        clauses = self.text(self.spelling @ self.words.weight)  # (clauses, width)
        named = torch.zeros(len(captions), len(clauses))
        for row, caption_clauses in enumerate(captions):
            named[row, [self.rows[clause] for clause in caption_clauses]] = 1.0
        kept = named * torch.from_numpy(rng.random(named.shape) >= DROP)
        text = F.normalize((kept @ clauses) / kept.sum(1, keepdim=True).clamp(min=1.0))
        match = self.caption_scale.exp() * image @ text.T  # (n, n)
        own = torch.arange(len(captions))
        caption_loss = (F.cross_entropy(match, own) + F.cross_entropy(match.T, own)) / 2
        logits = self.clause_scale.exp() * image @ F.normalize(clauses).T + self.clause_bias
        clause_loss = F.binary_cross_entropy_with_logits(logits, named, reduction="none").sum(1).mean()
        metrics = {
            "caption": float(caption_loss),
            "clause": float(clause_loss),
            "right": float((match.argmax(1) == own).float().mean()),
        }
        return caption_loss + clause_loss, metrics
