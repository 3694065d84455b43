"""LoRAs of some people, evaluated by the images that the base model generates with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import lora_layout
from miniature.base_model.model import TinySDXL, Tokenizer
from miniature.base_model.sampling import Side, generate_images
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

    def evaluate(self, loras: Tensor) -> dict[str, float]:
        """Mean face similarity and mean prompt fidelity of LoRAs (people, numel)."""
        layout = lora_layout()
        images = generate_images(self.base, self.vae, self.tokenizer, layout, loras, self.scenes, self.seed, self.side)
        pairs = list(zip(images, self.references, strict=True))
        return {
            "similarity": float(np.mean([face_similarity(own, references).mean() for own, references in pairs])),
            "fidelity": float(np.mean([prompt_fidelity(own, self.scenes).mean() for own in images])),
        }


def open_evaluation(weights: Path, tokenizer: Path, people: Sequence[int]) -> LoRAEvaluation:
    """Load what evaluates LoRAs of validation people.

    Published figures depend on the draws of the references: numpy generators seeded by the person's index.
    """
    references = [draw_references(index, np.random.default_rng(index)) for index in people]
    return LoRAEvaluation(*load_checkpoint(weights), Tokenizer(tokenizer), references)
