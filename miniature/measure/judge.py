"""The attribute judge: a classifier of what an image shows, to measure prompt fidelity and traits, nothing else.

A small convolutional network with one head per attribute and per trait that has words, trained on drawn images of
training people with blur, noise and color shifts, so that a generated image is judged by its content and not by its
sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miniature.base_model.vae import to_pixels
from miniature.encoders.batch_norm import recompute_batch_norms
from miniature.world.image_blocks import TEACHER_PEOPLE, load_block, random_images, training_blocks
from miniature.world.people import BEARDS, FRECKLES, person, trait_words
from miniature.world.scenes import (
    BACKGROUNDS,
    EXPRESSIONS,
    GAZES,
    GLASSES,
    HATS,
    LIGHTS,
    POSES,
    SHIRTS,
    Scene,
    training_scene,
)
from training.engine.config import TrainConfig
from training.engine.loop import train

from .judge_files import load_judge_weights, save_judge

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
TRAITS: dict[str, tuple[str, ...]] = {"freckles": FRECKLES, "beard": BEARDS}
"""Traits of the person that are judged in whole images; see `eye_judge` for the eyes."""
CONFIG = TrainConfig(steps=2400, learning_rate=2e-3, warmup=50, weight_decay=0.01, ema=0.995, seed=11)
BATCH = 48
FILE = "judge.safetensors"


class AttributeJudge(nn.Module):
    """Pixels (batch, 3, 128, 128) in [0, 1] → for each attribute and trait logits (batch, words)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 96, 96)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1)]  # (batch, 16, 64, 64)
        for before, after in pairwise(widths):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, after, 3, stride=2, padding=1)]
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Flatten())
        self.hidden = nn.Linear(widths[-1] * 16, 128)
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in (ATTRIBUTES | TRAITS).items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pixels (batch, 3, 128, 128) → logits (batch, words) by attribute and trait."""
        hidden = F.relu(self.hidden(self.features(pixels - 0.5)))
        return {name: head(hidden) for name, head in self.heads.items()}


def attribute_indices(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Index of each scene's word among an attribute's words, by attribute: int64 (scenes,)."""
    return {
        name: torch.tensor([words.index(getattr(scene, name)) for scene in scenes])
        for name, words in ATTRIBUTES.items()
    }


def trait_indices(people: Sequence[int]) -> dict[str, Tensor]:
    """Index of each person's word among a trait's words, by trait: int64 (people,)."""
    words = [trait_words(person(index)) for index in people]
    return {name: torch.tensor([TRAITS[name].index(own[name]) for own in words]) for name in TRAITS}


def soften(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise and color shift of random strength, as generated images have them; images are square."""
    amount, side = float(torch.rand((), generator=generator)), pixels.shape[-1]
    if amount > 0.3:
        size = int(side / (1 + 2.2 * (amount - 0.3)))
        small = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        pixels = F.interpolate(small, size=(side, side), mode="bilinear")
    tint = 1 + 0.08 * torch.randn(len(pixels), 3, 1, 1, generator=generator)
    return (pixels * tint + 0.03 * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)


def train_judge(build: Path, weights: Path) -> None:
    """Train to build/judge.safetensors (resumable) and write weights/judge.safetensors."""
    blocks = [block for block in training_blocks() if block.people[0] < TEACHER_PEOPLE]
    stacks, shapes = [load_block(build / "images", block) for block in blocks], [block.shape for block in blocks]

    def loss(judge: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images, scenes, people = [], [], []
        for b, p, k, _more in random_images(shapes, BATCH, generator):
            images.append(torch.from_numpy(np.array(stacks[b][p, k])).permute(2, 0, 1))
            scenes.append(training_scene(blocks[b].people[p], k))
            people.append(blocks[b].people[p])
        logits = judge(soften(torch.stack(images).float() / 255.0, generator))
        expected = attribute_indices(scenes) | trait_indices(people)
        value = torch.stack(
            [F.cross_entropy(logits[name], expected[name], label_smoothing=0.05) for name in expected]
        ).sum()
        accuracy = torch.stack([(logits[name].argmax(1) == expected[name]).float().mean() for name in expected]).mean()
        return value, {"accuracy": float(accuracy)}

    torch.manual_seed(11)  # this and the next seed are those of the shipped judge
    judge = AttributeJudge()
    train(judge, loss, CONFIG, build, "judge")
    generator = torch.Generator().manual_seed(12)
    batches = (soften(to_pixels(stack[:, :2].reshape(-1, *stack.shape[2:])), generator) for stack in stacks[:12])
    recompute_batch_norms(judge, batches)
    save_judge(judge, weights / FILE)


def load_judge(weights: Path) -> AttributeJudge:
    """The shipped judge, for inference.

    Raises:
        FileNotFoundError: There is none in `weights`.
    """
    return load_judge_weights(AttributeJudge(), weights / FILE)
