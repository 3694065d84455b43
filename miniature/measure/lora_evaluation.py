"""LoRAs of some people, evaluated by the images that the base model generates with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.model import TinySDXL, Tokenizer
from miniature.base_model.sampling import GUIDANCE, Side, generate_images
from miniature.base_model.vae import TinyVAE
from miniature.world.drawing import draw_references
from miniature.world.scenes import VALIDATION_SCENES, Scene

from .metrics import face_similarity, prompt_fidelity


@dataclass(frozen=True)
class LoRAEvaluation:
    """What is needed to evaluate LoRAs: base model, reference images, prompts."""

    base: TinySDXL
    """The base model."""
    vae: TinyVAE
    """Its autoencoder."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    references: Sequence[Sequence[np.ndarray]]
    """Reference images of each person, uint8 (height, width, 3)."""
    scenes: Sequence[Scene] = VALIDATION_SCENES
    """What the generated images are to show."""
    seed: int = 0
    """Of their initial noise."""
    side: Side = "positive"
    """Of guidance, on which LoRAs act; see `generate_images`."""
    guidance: float = GUIDANCE
    """Guidance scale."""

    def generate(self, loras: Tensor) -> np.ndarray:
        """Images of LoRAs (people, numel): uint8 (people, scenes, 128, 128, 3)."""
        return generate_images(
            self.base, self.vae, self.tokenizer, loras, self.scenes, self.seed, self.side, self.guidance
        )

    def similarities(self, images: np.ndarray) -> np.ndarray:
        """Face similarity of images (people, scenes, 128, 128, 3): (people, scenes)."""
        return np.stack([face_similarity(own, refs) for own, refs in zip(images, self.references, strict=True)])

    def fidelities(self, images: np.ndarray) -> np.ndarray:
        """Prompt fidelity of images (people, scenes, 128, 128, 3): (people, scenes)."""
        return np.stack([prompt_fidelity(own, self.scenes) for own in images])

    def evaluate(self, loras: Tensor) -> dict[str, float]:
        """Mean face similarity and mean prompt fidelity of LoRAs (people, numel)."""
        images = self.generate(loras)
        return {
            "similarity": float(self.similarities(images).mean(1).mean()),
            "fidelity": float(self.fidelities(images).mean(1).mean()),
        }


def open_evaluation(weights: Path, tokenizer: Path, people: Sequence[int]) -> LoRAEvaluation:
    """Load what evaluates LoRAs of validation people.

    Published figures depend on the draws of the references: numpy generators seeded by the person's index.
    """
    references = [draw_references(index, np.random.default_rng(index)) for index in people]
    return LoRAEvaluation(*load_checkpoint(weights), Tokenizer(tokenizer), references)
