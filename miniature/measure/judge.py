"""The attribute judge: does a picture show what its prompt said? For measuring only, no part of the model sees it.

A small convolutional classifier with one head per attribute, trained on drawn pictures of training people with blur,
noise and color shifts, so that a generated picture is judged by its content and not by its sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from miniature.world.image_blocks import TEACHER_PEOPLE, load_block, scene_of, training_blocks
from miniature.world.people import BACKGROUNDS, EXPRESSIONS, GAZES, GLASSES, HATS, LIGHTS, POSES, SHIRTS, Scene
from training.engine.loop import TrainConfig, train

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "expression": EXPRESSIONS,
    "gaze": GAZES,
    "pose": POSES,
    "light": LIGHTS,
    "glasses": GLASSES,
    "hat": HATS,
    "shirt": SHIRTS,
    "background": BACKGROUNDS,
}
CONFIG = TrainConfig(steps=2400, learning_rate=2e-3, warmup=50, weight_decay=0.01, ema=0.995, seed=11)
BATCH = 48


class Judge(nn.Module):
    """Pictures (batch, 3, 128, 128) in [0, 1] → per attribute logits (batch, words)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 96, 96)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1)]  # (batch, 16, 64, 64)
        for before, after in pairwise(widths):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, after, 3, stride=2, padding=1)]
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Flatten())
        self.hidden = nn.Linear(widths[-1] * 16, 128)
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in ATTRIBUTES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        hidden = F.relu(self.hidden(self.features(pictures - 0.5)))
        return {name: head(hidden) for name, head in self.heads.items()}


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Index of each scene's word, per attribute: int64 (scenes,)."""
    return {name: torch.tensor([words.index(getattr(s, name)) for s in scenes]) for name, words in ATTRIBUTES.items()}


def soften(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise and color shift of random strength, as generated pictures have them."""
    amount = float(torch.rand((), generator=generator))
    if amount > 0.3:
        size = int(128 / (1 + 2.2 * (amount - 0.3)))
        small = F.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, size=(128, 128), mode="bilinear")
    tint = 1 + 0.08 * torch.randn(len(pictures), 3, 1, 1, generator=generator)
    return (pictures * tint + 0.03 * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)


def train_judge(build: Path, weights: Path) -> None:
    """Train to build/judge.safetensors (resumable) and write weights/judge.safetensors."""
    blocks = [block for block in training_blocks() if block.people[0] < TEACHER_PEOPLE]
    stacks = [load_block(build / "pictures", block) for block in blocks]

    def loss(judge: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pictures, scenes = [], []
        for block, who, picture in torch.randint(0, 2**30, (BATCH, 3), generator=generator).tolist():
            b, p, k = block % len(blocks), who % len(blocks[0].people), picture % blocks[0].pictures
            pictures.append(torch.from_numpy(np.array(stacks[b][p, k])).permute(2, 0, 1))
            scenes.append(scene_of(blocks[b].people[p], k))
        logits = judge(soften(torch.stack(pictures).float() / 255.0, generator))
        right = labels(scenes)
        value = torch.stack(
            [F.cross_entropy(logits[name], right[name], label_smoothing=0.05) for name in ATTRIBUTES]
        ).sum()
        accuracy = torch.stack([(logits[name].argmax(1) == right[name]).float().mean() for name in ATTRIBUTES]).mean()
        return value, {"accuracy": float(accuracy)}

    torch.manual_seed(11)
    judge = Judge()
    train(judge, loss, CONFIG, build, "judge")
    _settle(judge, stacks)
    partial = weights / "judge.partial"
    save_file({key: _stored(value) for key, value in judge.state_dict().items()}, partial)
    partial.replace(weights / "judge.safetensors")


def _stored(tensor: Tensor) -> Tensor:
    """Half precision: half the size, and the same 4,800 answers on pictures of validation people, sharp and soft."""
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


@torch.no_grad()
def _settle(judge: Judge, stacks: Sequence[np.ndarray]) -> None:
    """Measure the batch norms' statistics anew: the EMA weights were never run."""
    generator = torch.Generator().manual_seed(12)
    for module in judge.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # plain average
    judge.train()
    for stack in stacks[:12]:
        pictures = torch.from_numpy(np.array(stack[:, :2])).flatten(0, 1).permute(0, 3, 1, 2).float() / 255.0
        judge(soften(pictures, generator))


def load_judge(weights: Path) -> Judge:
    """The shipped judge, for inference."""
    path = weights / "judge.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: it ships with the repository, or `python -m miniature build judge` makes it"
        )
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def prompt_fidelity(
    judge: Judge, pictures: np.ndarray, scenes: Sequence[Scene], open_fields: frozenset[str] = frozenset()
) -> np.ndarray:
    """Share of a prompt's attributes that each picture shows: float64 (n,) in [0, 1].

    pictures: uint8 (n, 128, 128, 3). Attributes in `open_fields` were left open by the prompt and don't count.
    """
    logits = judge(torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255.0)
    right = labels(scenes)
    names = [name for name in ATTRIBUTES if name not in open_fields]
    hits = torch.stack([logits[name].argmax(1) == right[name] for name in names])
    return hits.double().mean(0).numpy()
