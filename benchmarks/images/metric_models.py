"""Do the small networks of metrics see what the judge sees? On drawn and generated images of validation people.

    python -m benchmarks.images.metric_models [--people 16] [--scenes 8] [--prompts 40]

Metrics of image and prompt: of two images, does the metric prefer the one in which the judge finds more of the prompt's
eight attributes? By how many more it finds. Metrics of two images: are an image's most similar ones those of the same
person, in another scene, and those in which the judge finds more of the same attributes? Figures are the share of pairs
in which metric and judge agree: 0.5 is chance. An untrained DINO shows what color and layout alone give.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import ViTModel

from benchmarks.images.drawn_world import DrawnWorld
from difflora_core.model import DiffLoRA
from miniature.base_model.vae import to_pixels
from miniature.comfyui.host import find_tokenizer
from miniature.measure.judge import ATTRIBUTES, attribute_indices, load_judge
from miniature.measure.metric_models.dino_network import vision_config
from miniature.measure.metric_models.preference_pairs import prompt_between
from miniature.measure.metric_models.stage import MODELS
from miniature.paths import BUILD, DIFFLORA_CHECKPOINT, WEIGHTS
from miniature.personal.evaluated_people import EvaluatedPeople
from miniature.world.scenes import Scene, caption, random_scene
from training.evaluation.metrics.clip_similarity import ClipSimilarity
from training.evaluation.metrics.dino_similarity import DinoSimilarity
from training.evaluation.metrics.image_reward import ImageReward
from training.evaluation.metrics.metric import PersonMetric, PersonSample
from training.evaluation.metrics.pick_score import PickScore

LEADS = {"1 more": (1, 1), "2 more": (2, 2), "3 or more": (3, len(ATTRIBUTES))}
"""How many more of a prompt's attributes an image has than another one."""
SEED = 81


@torch.no_grad()
def judged(images: np.ndarray) -> Tensor:
    """Which word of each attribute the judge finds in images uint8 (n, 128, 128, 3): int64 (n, attributes)."""
    logits = load_judge(WEIGHTS)(to_pixels(images))
    return torch.stack([logits[name].argmax(1) for name in ATTRIBUTES], 1)


def agreement(values: Tensor, verdicts: Tensor, least: int, most: int) -> float:
    """Share of the pairs of two columns whose values differ as their verdicts do.

    Args:
        values: (rows, n), of a metric.
        verdicts: int64 (rows, n), of the judge.
        least: Difference of verdicts of the pairs that count, at least.
        most: The same, at most.
    """
    lead = verdicts[:, :, None] - verdicts[:, None, :]
    counted = (lead >= least) & (lead <= most)
    difference = (values[:, :, None] - values[:, None, :])[counted]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def of_prompts(metric: PersonMetric, column: str, images: np.ndarray, prompts: Sequence[Scene]) -> dict[str, float]:
    """Agreement of a metric of image and prompt with the judge, by how much more the judge finds."""
    found = judged(images)
    rows, verdicts = [], []
    for prompt in prompts:
        sample = PersonSample(list(images), [caption(prompt)] * len(images), [images[0]])
        rows.append(torch.from_numpy(metric.score(sample)[column]))
        expected = torch.cat(list(attribute_indices([prompt]).values()))
        verdicts.append((found == expected).sum(1))
    values, judge = torch.stack(rows), torch.stack(verdicts)
    return {name: agreement(values, judge, *lead) for name, lead in LEADS.items()}


def of_images(embeddings: Tensor, images: np.ndarray, scenes: int) -> dict[str, float]:
    """Agreement of the cosines of embeddings (people × scenes, width) with identity, and with the judge."""
    cosines = embeddings @ embeddings.T
    people = torch.arange(len(embeddings)) // scenes
    other_scene = (torch.arange(len(embeddings)) % scenes)[:, None] != torch.arange(len(embeddings)) % scenes
    same = people[:, None] == people
    identity = [
        agreement(row[kept][None], own[kept][None].long(), 1, 1)
        for row, own, kept in zip(cosines, same, other_scene, strict=True)
    ]
    found = judged(images)
    shared = (found[:, None] == found).sum(-1)
    others = [
        agreement(row[~own][None], of_judge[~own][None], *LEADS["3 or more"])
        for row, own, of_judge in zip(cosines, same, shared, strict=True)
    ]
    return {"same person": float(np.mean(identity)), "3 or more attributes": float(np.mean(others))}


def measure(images: np.ndarray, scenes: int, prompts: Sequence[Scene], folder: Path) -> dict[str, dict[str, float]]:
    """All metrics of images uint8 (people × scenes, 128, 128, 3)."""
    torch.manual_seed(0)
    clip, dino = ClipSimilarity.open(folder / "clip"), DinoSimilarity.open(folder / "dino")
    untrained = DinoSimilarity(ViTModel(vision_config(), add_pooling_layer=False).eval(), "untrained")
    by_prompt: dict[str, tuple[PersonMetric, str]] = {
        "CLIP-T": (clip, clip.text_column),
        "ImageReward": (ImageReward.open(folder / "image_reward"), "ImageReward"),
        "PickScore": (PickScore.open(folder / "pick_score"), "PickScore"),
    }
    embed: dict[str, Callable[[Sequence[np.ndarray]], Tensor]] = {
        "CLIP-I": clip.clip.images,
        "DINO": dino.embed,
        "DINO, untrained": untrained.embed,
    }
    return {
        **{name: of_prompts(metric, column, images, prompts) for name, (metric, column) in by_prompt.items()},
        **{name: of_images(embedded(list(images)), images, scenes) for name, embedded in embed.items()},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--models", type=Path, default=BUILD / MODELS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people = EvaluatedPeople("validation", arguments.people, 0, find_tokenizer())
    scenes = [random_scene(np.random.default_rng([SEED, number])) for number in range(arguments.scenes)]
    generator = torch.Generator().manual_seed(SEED)
    pairs = torch.randint(len(scenes), (arguments.prompts, 2), generator=generator).tolist()
    prompts = [prompt_between(scenes[first], scenes[second], generator) for first, second in pairs]
    loras = people.loras(DiffLoRA.load(DIFFLORA_CHECKPOINT))
    generated = replace(people.evaluation, scenes=scenes).generate(loras)
    for name, images in (("drawings", DrawnWorld(people, scenes).drawings), ("DiffLoRA", generated)):
        print(name)
        for metric, row in measure(
            images.reshape(-1, *images.shape[2:]), len(scenes), prompts, arguments.models
        ).items():
            print(f"  {metric:<16}" + ", ".join(f"{what}: {value:.3f}" for what, value in row.items()))


if __name__ == "__main__":
    main()
