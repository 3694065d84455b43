"""The miniature's recommended sampling, chosen by the images that validation people's LoRAs make."""

import math
from dataclasses import asdict

import torch
from torch import Tensor

from difflora_core.denoiser.config import SamplingConfig
from difflora_core.model import DiffLoRA
from miniature.measure.lora_evaluation import LoRAEvaluation
from miniature.world.drawing import REFERENCES
from training.end_to_end.sampling_choice import choose_sampling
from training.people.conditions import Conditions

MIN_IMPROVEMENT = 0.005  # of face similarity, see `choose_sampling`
MAX_FIDELITY_LOSS = 0.03  # against no LoRA


def conditions_of(model: DiffLoRA, conditions: Conditions, count: int) -> Tensor:
    """Mix the embeddings of the first `count` people's first references into what the DiT gets: (people, width)."""
    faces, images = conditions.face[:count, :REFERENCES], conditions.image[:count, :REFERENCES]
    return torch.cat([model.mix(face, image).condition for face, image in zip(faces, images, strict=True)])


def choose_by_similarity(
    model: DiffLoRA, evaluation: LoRAEvaluation, conditions: Tensor, teachers: Tensor
) -> tuple[SamplingConfig, dict[str, dict[str, float]]]:
    """Choose the sampling with the highest face similarity whose prompt fidelity stays near that of no LoRA.

    Args:
        model: What is sampled.
        evaluation: Of validation people.
        conditions: Of the same people (people, width).
        teachers: Their LoRAs (people, numel).

    Returns:
        The settings, and the metrics of all that was evaluated: baselines, and all settings that were tried.
    """
    metrics = {
        "no_lora": evaluation.evaluate(torch.zeros_like(teachers)),
        "teacher": evaluation.evaluate(teachers),
        "lae_of_teacher": evaluation.evaluate(model.decode(model.encode(teachers))),
        "average_person": evaluation.evaluate(model.decode(torch.zeros(len(teachers), *model.lae.latent_mean.shape))),
    }
    floor = metrics["no_lora"]["fidelity"] - MAX_FIDELITY_LOSS

    def evaluate(sampling: SamplingConfig) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        return evaluation.evaluate(model.decode(model.sample(conditions, generator=generator, **asdict(sampling))))

    def score(found: dict[str, float]) -> float:
        return found["similarity"] if found["fidelity"] >= floor else -math.inf

    sampling, tried = choose_sampling(evaluate, score, MIN_IMPROVEMENT)
    return sampling, metrics | tried
