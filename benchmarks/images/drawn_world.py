"""How good the miniature's images are: likeness, traits, eyes, sharpness, distance to drawings, by who made them.

    python -m benchmarks.images.drawn_world [--people 16] [--seeds 1] [--split validation] [--teacher-steps 320]

Every row has the same people, scenes and seeds: drawings of the scenes themselves, those drawings through the
autoencoder, the base model without a LoRA, teachers and DiffLoRA, both with the LoRA on both sides of guidance and on
the positive one alone. Held-out people (--split held_out) are for the figures that are published, once.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.base_model.sampling import PEOPLE_PER_BATCH, Side
from miniature.base_model.vae import to_images
from miniature.comfyui.host import find_tokenizer
from miniature.encoders.clip_vision import encode
from miniature.measure.lora_evaluation import LoRAEvaluation
from miniature.measure.metrics import right_traits, sharpness
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.personal.evaluated_people import EvaluatedPeople
from miniature.personal.teachers import CONFIG as TEACHER_CONFIG
from miniature.personal.teachers import person_latents, train_teachers
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import DEMO_SCENES, VALIDATION_SCENES, Scene
from training.evaluation.metrics.distributions.frechet import frechet_distance

EXTRA_SCENES = (
    Scene(expression="smiling", gaze="looking left", shirt="white shirt", background="green"),
    Scene(expression="surprised", shirt="black shirt", background="white"),
    Scene(light="light from the right", shirt="red shirt", background="yellow"),
    Scene(pose="turned right", yaw=0.28, shirt="blue shirt", background="dark"),
)
"""More scenes, so that a person has eight or nine images."""
NO_LORA_SEED = 1000
"""Times the seed: that of the first batch of images without a LoRA."""
COLUMNS = ("likeness", "attributes", "eye color", "freckles", "beard", "eyes agree", "sharpness", "Fréchet")


@dataclass(frozen=True)
class DrawnWorld:
    """People, scenes and networks of one seed."""

    people: EvaluatedPeople
    """Who, with reference images."""
    scenes: Sequence[Scene]
    """What each is to show."""

    @cached_property
    def evaluation(self) -> LoRAEvaluation:
        """Generates and measures images of the scenes."""
        return replace(self.people.evaluation, scenes=self.scenes)

    @cached_property
    def drawings(self) -> np.ndarray:
        """The scenes as drawn: uint8 (people, scenes, 128, 128, 3)."""
        return self.draw(self.people.indices)

    @cached_property
    def other_features(self) -> Tensor:
        """Features of drawings of training people, as many: real against real and everything else against them."""
        return features(self.draw(range(len(self.people.indices))))

    def draw(self, indices: Sequence[int]) -> np.ndarray:
        """Draw people in the scenes."""
        return np.stack([[draw(person(index), scene).image for scene in self.scenes] for index in indices])

    def measure(self, images: np.ndarray) -> dict[str, float]:
        """Measure images uint8 (people, scenes, 128, 128, 3)."""
        flat = images.reshape(-1, *images.shape[2:])
        owners = [index for index in self.people.indices for _ in self.scenes]
        traits = {name: float(values.mean()) for name, values in right_traits(flat, owners).items()}
        return {
            "likeness": float(self.evaluation.similarities(images).mean()),
            "attributes": float(self.evaluation.fidelities(images).mean()),
            **traits,
            "sharpness": sharpness(flat) / sharpness(self.drawings.reshape(flat.shape)),
            "Fréchet": frechet_distance(features(images), self.other_features),
        }


def features(images: np.ndarray) -> Tensor:
    """Image embeddings by the conditioning image encoder: (n, width)."""
    return encode([Image.fromarray(image) for image in images.reshape(-1, *images.shape[-3:])])


def without_lora(evaluation: LoRAEvaluation, people: int) -> np.ndarray:
    """Images without a LoRA, as many as of so many people: uint8 (people, scenes, 128, 128, 3).

    The noise starts anew for every batch of people, so all batches would have the same images: each gets another seed.
    """
    nothing = torch.zeros(people, lora_layout().numel).split(PEOPLE_PER_BATCH)
    seeds = (NO_LORA_SEED * evaluation.seed + number for number in range(len(nothing)))
    return np.concatenate(
        [replace(evaluation, seed=seed).generate(batch) for seed, batch in zip(seeds, nothing, strict=True)]
    )


def longer_teachers(people: EvaluatedPeople, steps: Sequence[int]) -> dict[str, Tensor]:
    """LoRAs (people, numel) by the row's name; they depend on no seed of images."""
    if not steps:
        return {}
    base, vae, tokenizer = people.evaluation.base, people.evaluation.vae, people.evaluation.tokenizer
    latents = torch.stack([person_latents(vae, index) for index in people.indices])
    return {
        f"teacher, {count} steps": train_teachers(base, tokenizer, latents, replace(TEACHER_CONFIG, steps=count))[0]
        for count in tqdm(steps, desc="longer teachers")
    }


def rows(world: DrawnWorld, teachers: Mapping[str, Tensor]) -> dict[str, Callable[[], np.ndarray]]:
    """How the images of each row are made; `teachers` beside the shipped ones are from `longer_teachers`."""
    people, evaluation, vae = world.people, world.evaluation, world.evaluation.vae

    def generate(loras: Tensor, side: Side) -> np.ndarray:
        return replace(evaluation, side=side).generate(loras)

    def through_autoencoder() -> np.ndarray:
        return np.stack([to_images(vae.decode(vae.encode_images(own))) for own in world.drawings])

    loras = {"teacher": people.teachers(), "DiffLoRA": people.loras(DiffLoRA.load(DIFFLORA_CHECKPOINT)), **teachers}
    made: dict[str, Callable[[], np.ndarray]] = {
        "drawings": lambda: world.drawings,
        "drawings through the autoencoder": through_autoencoder,
        "no LoRA": lambda: without_lora(evaluation, len(people.indices)),
    }
    sides: tuple[Side, ...] = ("both", "positive")
    for name, flat in loras.items():
        for side in sides:
            made[f"{name}, {side}"] = lambda flat=flat, side=side: generate(flat, side)  # type: ignore[misc]
    return made


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the means over seeds as a table in Markdown."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, seeds in found.items():
        means = [np.mean([one[column] for one in seeds]) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=["held_out", "validation"], default="validation")
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--teacher-steps", type=int, nargs="*", default=[], help="train and measure longer teachers too"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    scenes = (*(DEMO_SCENES if arguments.split == "held_out" else VALIDATION_SCENES), *EXTRA_SCENES)
    people = [EvaluatedPeople(arguments.split, arguments.people, seed, find_tokenizer()) for seed in arguments.seeds]
    teachers = longer_teachers(people[0], arguments.teacher_steps)
    for own in people:
        world = DrawnWorld(own, scenes)
        for name, make in tqdm(rows(world, teachers).items(), desc=f"seed {own.seed}"):
            found.setdefault(name, []).append(world.measure(make()))
    print(table(found))
    for name, seeds in found.items():
        print(f"likeness by seed, {name}:", ", ".join(f"{one['likeness']:.3f}" for one in seeds))


if __name__ == "__main__":
    main()
