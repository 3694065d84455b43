"""Baselines of `benchmarks.identity` that predict a LoRA without diffusion: PCA, ridge and one-shot regression.

    python -m benchmarks.identity --table methods stages

They are trained on the miniature's scratch folder (`python -m miniature build`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.mif import mean_embedding
from difflora_core.denoiser.model import Denoiser
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.paths import BUILD
from miniature.personal.embeddings import load_conditions
from miniature.personal.train import DIFFLORA_TRAINING
from miniature.world.drawing import REFERENCES
from training.denoiser.train import train_denoiser
from training.evaluation.methods.loras.ridge_regression import RidgeRegression, choose_penalty
from training.people.conditions import People
from training.store.lora_store import LoRAStore


def teacher_store() -> LoRAStore:
    """The teachers in the scratch folder."""
    return LoRAStore(BUILD / "teachers", lora_layout())


def mean_faces(embeddings: Tensor) -> Tensor:
    """Average face embeddings (people, images, width) into unit-length ones (people, width)."""
    return torch.cat([mean_embedding(own.float()) for own in embeddings])


def training_faces(people: list[int]) -> Tensor:
    """Face embeddings (people, width) of the people with teachers.

    Raises:
        ValueError: The embeddings in the scratch folder are of other people.
    """
    conditions, order = load_conditions(BUILD / "conditions" / "train.safetensors")
    if order.tolist() != people:
        raise ValueError("the embeddings in the scratch folder are of other people than the teachers: build again")
    return mean_faces(conditions.face)


def ridge_latents(faces: Tensor, latents: Tensor, queries: Tensor, model: DiffLoRA) -> Tensor:
    """Predict latents (queries, tokens, width) by ridge regression, its penalty chosen on the validation people.

    Args:
        faces: Of training people (people, width).
        latents: Of their teachers (people, tokens, width).
        queries: Face embeddings (queries, width).
        model: Encodes the validation people's teachers.
    """
    conditions, _ = load_conditions(BUILD / "conditions" / "validation.safetensors")
    others = mean_faces(conditions.face[:, :REFERENCES])
    expected = model.encode(teacher_store().read("validation")[0]).flatten(1)
    penalty = choose_penalty(faces, latents.flatten(1), others, expected)
    predicted = RidgeRegression.fit(faces, latents.flatten(1), penalty).predict(queries)
    return predicted.view(-1, *latents.shape[1:])


@torch.no_grad()
def through_pca(trained: Tensor, loras: Tensor, config: LAEConfig) -> Tensor:
    """Project LoRAs (people, numel) on as many principal components of the training people's as a latent has values."""
    pca = LAE(lora_layout(), LAEConfig(kind="linear", tokens=config.tokens, width=config.width))
    pca.fit(trained)
    return pca.decode(pca.encode(loras))


def trained_regression(model: DiffLoRA) -> Denoiser:
    """One-shot regression by the same networks, trainer and settings; kept in the scratch folder."""
    people = []
    for split in ("train", "validation"):
        conditions, _ = load_conditions(BUILD / "conditions" / f"{split}.safetensors")
        people.append(People(model.encode(teacher_store().read(split)[0]), conditions))
    training = replace(DIFFLORA_TRAINING, objective="regression")
    return train_denoiser(*people, model.config.dit, model.config.mif, training, BUILD / "regression")[0]
