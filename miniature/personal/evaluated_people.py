"""People that LoRAs are evaluated on, with reference images, embeddings and teachers."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difflora_core.denoiser.mif import mean_embedding
from difflora_core.encoders.face_encoder import FaceEncoder
from difflora_core.encoders.image_encoder import ImageEncoder
from difflora_core.model import DiffLoRA
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import lora_layout
from miniature.base_model.model import Tokenizer
from miniature.encoders.faces.face_analysis import ROOT as FACES
from miniature.measure.lora_evaluation import LoRAEvaluation
from miniature.paths import BUILD, WEIGHTS
from miniature.world.drawing import draw_references
from miniature.world.scenes import DEMO_SCENES, VALIDATION_SCENES
from training.store.lora_store import LoRAStore

from .held_out_teachers import HeldOutTeachers
from .teachers import teacher_people


class EvaluatedPeople:
    """People with reference images and their embeddings, and what evaluates their LoRAs."""

    def __init__(self, split: str, people: int, seed: int, tokenizer: Path) -> None:
        """Draw the references and encode them.

        Args:
            split: "held_out" or "validation".
            people: How many.
            seed: Of references, LoRAs and images.
            tokenizer: Folder of SDXL's tokenizer.

        Raises:
            ValueError: There are not so many with teachers.
        """
        self.split, self.seed, self.indices = split, seed, first_people(split, people)
        # Published figures depend on these draws
        self.references = [draw_references(index, np.random.default_rng([seed, index])) for index in self.indices]
        face = FaceEncoder.open("miniature", FACES)
        image = ImageEncoder.open(WEIGHTS / "clip_vision" / "miniature")
        self.face = torch.cat([mean_embedding(face.encode(own)) for own in self.references])
        self.image = torch.cat([mean_embedding(image.encode(own)) for own in self.references])
        base, vae = load_checkpoint(WEIGHTS)
        scenes = DEMO_SCENES if split == "held_out" else VALIDATION_SCENES
        self.evaluation = LoRAEvaluation(base, vae, Tokenizer(tokenizer), self.references, scenes, seed)

    def latents(self, model: DiffLoRA, mode: str | None = None, **sampling: object) -> Tensor:
        """Sample all people's latents, each with an own generator."""
        condition = model.mif(self.face, self.image, mode)[0]
        generators = [torch.Generator().manual_seed(self.seed) for _ in self.indices]
        return model.sample(condition, generator=generators, **sampling)  # type: ignore[arg-type]

    def loras(self, model: DiffLoRA) -> Tensor:
        """LoRAs that DiffLoRA makes from the references, as it recommends: (people, numel)."""
        return model.decode(self.latents(model))

    def teachers(self) -> Tensor:
        """LoRAs that were trained for these people: (people, numel)."""
        if self.split == "held_out":
            return HeldOutTeachers.load().teachers[: len(self.indices)].float()
        return LoRAStore(BUILD / "teachers", lora_layout()).read(self.split)[0][: len(self.indices)]


def first_people(split: str, people: int) -> list[int]:
    """Return the indices of the first so many people of a split that have teachers.

    Raises:
        ValueError: There are not so many.
    """
    found = list(teacher_people(split))
    if not 1 <= people <= len(found):
        raise ValueError(f"{people} people of {split!r} were asked for; 1 to {len(found)} have teachers: ask for fewer")
    return found[:people]
