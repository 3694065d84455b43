"""Stage `recognizers`: the conditioning recognizer "miniature" and the judge "measuring", trained apart.

They share no person, seed, loss or width. "miniature" learns by InfoNCE over pairs of pictures (van den Oord et al.,
2018) and, because the drawn world knows them, to give the traits by a linear map. "measuring" learns by the supervised
contrastive loss alone (Khosla et al., 2020). Both have look-alikes in every batch. No part of DiffLoRA sees
"measuring".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.world.people import TRAITS
from training.engine.loop import TrainConfig, train

from .alignment import aligned_crop, alignment, jittered
from .degradation import worn
from .export import export_recognizer, settle
from .face_images import PersonImages, open_album
from .recognizer import EMBEDDING, Recognizer, RecognizerConfig


@dataclass(frozen=True)
class RecognizerRun:
    """How a recognizer is trained. people: whole blocks. batch: people × pictures of each. trait_weight: 0 = no traits.

    look_alikes: size of the groups of similar people a batch is made of. temperature: of the cosines. jitter: pixels
    that landmarks are off, about what the detector errs.
    """

    network: RecognizerConfig
    people: range
    batch: tuple[int, int]
    training: TrainConfig
    temperature: float
    look_alikes: int
    trait_weight: float
    jitter: float


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


def train_recognizers(build: Path, weights: Path, names: tuple[str, ...] = ("miniature", "measuring")) -> None:
    """Train (resumable, state in build/faces) and export weights/insightface/models/NAME/recognizer.onnx."""
    for name in names:
        run = RUNS[name]
        sample = crop_sampler(open_album(build, run.people), run)
        torch.manual_seed(run.training.seed)  # of the initial weights only: every batch has a generator of its own
        model = _Trained(run)
        train(model, contrastive_loss(sample, run), run.training, build / "faces", f"recognizer_{name}")
        settle(model.network, (sample(torch.Generator().manual_seed(s))[0] for s in range(8)))
        export_recognizer(model.network, weights / "insightface" / "models" / name / "recognizer.onnx")


class _Trained(nn.Module):
    """The recognizer with what only training needs: the linear map to the traits."""

    def __init__(self, run: RecognizerRun) -> None:
        super().__init__()
        self.network = Recognizer(run.network).to(memory_format=torch.channels_last)
        if run.trait_weight:
            self.traits = nn.Linear(EMBEDDING, len(TRAITS))


Sampler = Callable[[torch.Generator], tuple[Tensor, Tensor]]


def crop_sampler(album: PersonImages, run: RecognizerRun) -> Sampler:
    """sample(generator) → crops (people · pictures, 3, 112, 112) in [-1, 1], person-major, and traits (people, 26)."""
    traits = album.traits()
    people, pictures = run.batch

    def sample(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
        rows = look_alikes(traits, people, run.look_alikes, rng)
        columns = np.stack([rng.choice(album.pictures, pictures, replace=False) for _ in rows])  # (people, pictures)
        owners = np.repeat(rows, pictures)
        marks = album.landmarks[owners, columns.reshape(-1)]  # (people · pictures, 5, 2)
        transforms = alignment(jittered(marks, rng, run.jitter))
        crops = [
            aligned_crop(worn(album.picture(int(row), int(column)), rng), transform)
            for row, column, transform in zip(owners, columns.reshape(-1), transforms, strict=True)
        ]
        return normalized(np.stack(crops)), torch.from_numpy(traits[rows])

    return sample


def normalized(crops: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) → float32 (n, 3, h, w) in [-1, 1], laid out for the CPU's convolutions."""
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    return ((pixels - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)


def look_alikes(traits: np.ndarray, count: int, group: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `count` different people in groups that agree in ten traits chosen anew for every group.

    Strangers are told apart by skin and hair alone; only people who agree in those teach the finer traits.
    """
    chosen: list[int] = []
    free = np.ones(len(traits), dtype=bool)
    while len(chosen) < count:
        first = int(rng.choice(np.flatnonzero(free)))
        seen = rng.choice(traits.shape[1], 10, replace=False)
        distance = np.abs(traits[:, seen] - traits[first, seen]).sum(axis=1)
        distance[~free] = np.inf
        nearest = np.argsort(distance, kind="stable")[: min(group, count - len(chosen))]
        chosen += nearest.tolist()
        free[nearest] = False
    return np.array(chosen)


def contrastive_loss(
    sample: Sampler, run: RecognizerRun
) -> Callable[[nn.Module, int, torch.Generator], tuple[Tensor, dict[str, float]]]:
    """Loss of one batch: each picture's positives are the other pictures of its person, all else is negative."""
    people, pictures = run.batch
    same = torch.block_diag(*[torch.ones(pictures, pictures)] * people).bool()
    itself = torch.eye(people * pictures, dtype=torch.bool)

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, _Trained)
        crops, traits = sample(generator)
        unit = F.normalize(module.network(crops))  # (people · pictures, 512)
        cosine = unit @ unit.T
        logits = (cosine / run.temperature).masked_fill(itself, -1e4)
        positive = same & ~itself
        value = -(F.log_softmax(logits, dim=1)[positive]).mean()
        figures = {"same": float(cosine[positive].mean()), "other": float(cosine[~same].mean())}
        figures["right"] = float(positive.gather(1, logits.argmax(1, keepdim=True)).float().mean())
        if run.trait_weight:
            guess = module.traits(unit * EMBEDDING**0.5)
            error = (guess - traits.repeat_interleave(pictures, 0)).square().mean()
            value, figures["traits"] = value + run.trait_weight * error, float(error)
        return value, figures

    return loss
