"""Stage `image_encoder`: train the CLIP vision tower on drawn pictures and what a caption writer says of them.

The captions name looks (`people.describe`) and scene (`people.caption`). The text tower exists only here: words are
averaged to clauses, clauses to captions. Two contrastive losses: CLIP's over whole captions with some clauses left out
(Radford et al., 2021), and SigLIP's over single clauses (Zhai et al., 2023): that makes a small tower learn the fine
ones in a few hundred steps.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from miniature.encoders.faces.degradation import worn
from miniature.encoders.faces.face_images import PersonImages, open_album
from miniature.world.image_blocks import scene_of
from miniature.world.people import caption, describe, person
from training.engine.loop import TrainConfig, train

from .clip_vision import preprocess, save_image_encoder, vision_config

PEOPLE = range(0, 4800)
BATCH = 96
DROP = 0.3  # of a caption's clauses
SHIFT = 5  # pixels
TRAINING = TrainConfig(steps=520, learning_rate=1.5e-3, warmup=60, weight_decay=0.05, ema=0.99, save_every=50, seed=31)


def train_image_encoder(build: Path, weights: Path) -> None:
    """Train (resumable, state in build/faces) and save weights/clip_vision/miniature."""
    album = open_album(build, PEOPLE)
    torch.manual_seed(TRAINING.seed)
    model = CaptionedPictures(vocabulary())

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
        pictures, captions = draw_batch(album, rng)
        return module(preprocess(pictures), captions, rng)

    train(model, loss, TRAINING, build / "faces", "image_encoder")
    save_image_encoder(model.vision.eval(), weights / "clip_vision" / "miniature")


def draw_batch(album: PersonImages, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Worn, shifted pictures, uint8 (batch, 128, 128, 3), and their captions. Never mirrored: captions say left."""
    rows = rng.choice(len(album.people), BATCH, replace=False)
    columns = rng.integers(album.pictures, size=BATCH)
    pictures = []
    for row, column in zip(rows, columns, strict=True):
        padded = np.pad(worn(album.picture(row, column), rng), ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "edge")
        top, left = rng.integers(2 * SHIFT + 1, size=2)
        pictures.append(padded[top : top + 128, left : left + 128])
    return np.stack(pictures), [
        clauses_of(int(album.people[row]), int(column)) for row, column in zip(rows, columns, strict=True)
    ]


@lru_cache(maxsize=40000)
def clauses_of(index: int, picture: int) -> tuple[str, ...]:
    """Clauses of the full caption of a training picture: scene without the class word, then looks."""
    return (*caption(scene_of(index, picture)).split(", ")[1:], *describe(person(index)).split(", "))


def vocabulary() -> list[str]:
    """All clauses that captions are made of, in alphabetical order (seen in 600 people, which is all there are)."""
    return sorted({clause for index in range(600) for picture in range(6) for clause in clauses_of(index, picture)})


class CaptionedPictures(nn.Module):
    """Vision tower, text tower and the losses between them."""

    def __init__(self, clauses: list[str], width: int = 96) -> None:
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(vision_config())
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

    spelling: Tensor

    def forward(
        self, pixels: Tensor, captions: list[tuple[str, ...]], rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Pixels (n, 3, 128, 128), n captions → loss and figures."""
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
        figures = {
            "caption": float(caption_loss),
            "clause": float(clause_loss),
            "right": float((match.argmax(1) == own).float().mean()),
        }
        return caption_loss + clause_loss, figures
