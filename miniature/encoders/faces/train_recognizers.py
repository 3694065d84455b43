"""Stage `faces`: the recognizer "miniature", which DiffLoRA is conditioned on, and "measuring", for evaluation only.

They share no person, seed, loss or width. "miniature" is trained by InfoNCE over pairs of images (van den Oord et al.,
2018) and to predict the traits, which the drawn world knows, by a linear layer. "measuring" is trained by the
supervised contrastive loss alone (Khosla et al., 2020). Every batch has groups of look-alikes for both. No part of
DiffLoRA is trained with "measuring".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.encoders.batch_norm import recompute_batch_norms
from miniature.world.people import TRAITS
from training.engine.config import TrainConfig
from training.engine.loop import train

from .alignment import aligned_crop, alignment, jittered
from .degradation import degrade
from .export import export_recognizer
from .face_images import FaceImages, open_face_images
from .recognizer import EMBEDDING, Recognizer, RecognizerConfig


@dataclass(frozen=True)
class RecognizerRun:
    """How a recognizer is trained."""

    network: RecognizerConfig
    """Widths of the network."""
    people: range
    """Who it is trained on: whole image blocks."""
    batch: tuple[int, int]
    """People in a batch, and images of each."""
    training: TrainConfig
    """Steps, rates, seed."""
    temperature: float
    """Of the cosines in the contrastive loss."""
    look_alikes: int
    """Size of the groups of similar people that a batch is made of."""
    trait_weight: float
    """Weight of the loss on traits; 0 switches it off."""
    jitter: float
    """Error of the landmarks in pixels, about that of the detector."""


RUNS = {
    "miniature": RecognizerRun(
        network=RecognizerConfig(stem=(16, 32, 64), deep=80, neck=14),
        people=range(0, 2400),
        batch=(112, 2),
        training=TrainConfig(
            steps=520, learning_rate=3e-3, warmup=30, weight_decay=0.02, ema=0.99, save_every=20, seed=11
        ),
        temperature=0.08,
        look_alikes=8,
        trait_weight=12.0,
        jitter=0.9,
    ),
    "measuring": RecognizerRun(
        network=RecognizerConfig(stem=(40, 56), deep=96, neck=12),
        people=range(2400, 4800),
        batch=(64, 4),
        training=TrainConfig(
            steps=220, learning_rate=3e-3, warmup=20, weight_decay=0.02, ema=0.98, save_every=20, seed=12
        ),
        temperature=0.1,
        look_alikes=8,
        trait_weight=0.0,
        jitter=1.1,
    ),
}


def train_recognizers(build: Path, weights: Path) -> None:
    """Train (resumable, state in build/faces) and export weights/insightface/models/NAME/recognizer.onnx."""
    for name, run in RUNS.items():
        sample = crop_sampler(open_face_images(build, run.people), run)
        torch.manual_seed(run.training.seed)  # for the initial weights: batches have their own
        model = _Trained(run)
        train(model, contrastive_loss(sample, run), run.training, build / "faces", f"recognizer_{name}")
        recompute_batch_norms(model.network, (sample(torch.Generator().manual_seed(s))[0] for s in range(8)))
        export_recognizer(model.network, weights / "insightface" / "models" / name / "recognizer.onnx")


class _Trained(nn.Module):
    """The recognizer with a linear layer to the traits, which only training needs."""

    def __init__(self, run: RecognizerRun) -> None:
        super().__init__()
        self.network = Recognizer(run.network).to(memory_format=torch.channels_last)
        if run.trait_weight:
            self.traits = nn.Linear(EMBEDDING, len(TRAITS))


Sampler = Callable[[torch.Generator], tuple[Tensor, Tensor]]


def crop_sampler(images: FaceImages, run: RecognizerRun) -> Sampler:
    """sample(generator) → crops (people · images, 3, 112, 112) in [-1, 1], person-major, and traits (people, 26)."""
    traits = images.traits()
    people, count = run.batch

    def sample(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
        rows = look_alikes(traits, people, run.look_alikes, rng)
        columns = np.stack([rng.choice(images.per_person, count, replace=False) for _ in rows])  # (people, count)
        owners = np.repeat(rows, count)
        marks = images.landmarks[owners, columns.reshape(-1)]  # (people · count, 5, 2)
        transforms = alignment(jittered(marks, rng, run.jitter))
        crops = [
            aligned_crop(degrade(images.image(int(row), int(column)), rng), transform)
            for row, column, transform in zip(owners, columns.reshape(-1), transforms, strict=True)
        ]
        return normalized(np.stack(crops)), torch.from_numpy(traits[rows])

    return sample


def normalized(crops: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) → float32 (n, 3, h, w) in [-1, 1], laid out for the CPU's convolutions."""
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    return ((pixels - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)


def look_alikes(traits: np.ndarray, count: int, group: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `count` different people in groups that agree in ten traits, chosen anew for every group.

    Random people differ in skin and hair, which is enough to tell them apart; with people who agree in those the finer
    traits are needed, too.
    """
    chosen: list[int] = []
    free = np.ones(len(traits), dtype=bool)
    while len(chosen) < count:
        first = int(rng.choice(np.flatnonzero(free)))
        compared = rng.choice(traits.shape[1], 10, replace=False)
        distance = np.abs(traits[:, compared] - traits[first, compared]).sum(axis=1)
        distance[~free] = np.inf
        nearest = np.argsort(distance, kind="stable")[: min(group, count - len(chosen))]
        chosen += nearest.tolist()
        free[nearest] = False
    return np.array(chosen)


def contrastive_loss(
    sample: Sampler, run: RecognizerRun
) -> Callable[[nn.Module, int, torch.Generator], tuple[Tensor, dict[str, float]]]:
    """Loss of one batch: an image's positives are the other images of its person, all others are negatives."""
    people, count = run.batch
    same = torch.block_diag(*[torch.ones(count, count)] * people).bool()
    itself = torch.eye(people * count, dtype=torch.bool)

    def loss(module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, _Trained)
        crops, traits = sample(generator)
        unit = F.normalize(module.network(crops))  # (people · count, 512)
        cosine = unit @ unit.T
        logits = (cosine / run.temperature).masked_fill(itself, -1e4)
        positive = same & ~itself
        value = -(F.log_softmax(logits, dim=1)[positive]).mean()
        metrics = {"same": float(cosine[positive].mean()), "other": float(cosine[~same].mean())}
        metrics["right"] = float(positive.gather(1, logits.argmax(1, keepdim=True)).float().mean())
        if run.trait_weight:
            guess = module.traits(unit * EMBEDDING**0.5)
            error = (guess - traits.repeat_interleave(count, 0)).square().mean()
            value, metrics["traits"] = value + run.trait_weight * error, float(error)
        return value, metrics

    return loss
