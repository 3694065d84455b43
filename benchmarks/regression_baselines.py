"""Baselines of `benchmarks.identity` that predict a LoRA without diffusion: PCA, ridge and one-shot regression.

    python -m benchmarks.identity --table methods stages

They are trained on the miniature's scratch folder (`python -m miniature build`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.paths import BUILD
from miniature.personal.embeddings import load_conditions_of
from miniature.personal.train import DIFFLORA_TRAINING
from miniature.world.drawing import REFERENCES
from training.denoiser.train import train_denoiser
from training.engine.evaluated_run import compared_settings
from training.evaluation.methods.loras.ridge_regression import RidgeRegression, choose_penalty
from training.lora_dataset.fingerprints import HASH_DIGITS, hash_tensor, hash_weights
from training.people.conditions import Conditions, People
from training.store.lora_store import LoRAStore


def teacher_store() -> LoRAStore:
    """The teachers in the scratch folder."""
    return LoRAStore(BUILD / "teachers", lora_layout())


def conditions_of_teachers(split: str) -> tuple[Tensor, Conditions]:
    """Read a split's teachers (people, numel) and the embeddings of the same people.

    Raises:
        ValueError: The embeddings in the scratch folder are of other people.
    """
    loras, people = teacher_store().read(split)
    return loras, load_conditions_of(BUILD / "conditions" / f"{split}.safetensors", people)


def training_faces() -> Tensor:
    """Face embeddings of the training people with teachers, each the mean of the person's images: (people, width).

    Raises:
        ValueError: The embeddings in the scratch folder are of other people.
    """
    _, conditions = conditions_of_teachers("train")
    return conditions.first(conditions.face.shape[1])[0]


def ridge_latents(faces: Tensor, latents: Tensor, queries: Tensor, model: DiffLoRA) -> Tensor:
    """Predict latents (queries, tokens, width) by ridge regression, its penalty chosen on the validation people.

    Args:
        faces: Of training people (people, width).
        latents: Of their teachers (people, tokens, width).
        queries: Face embeddings (queries, width).
        model: Encodes the validation people's teachers.
    """
    teachers, conditions = conditions_of_teachers("validation")
    others, _ = conditions.first(REFERENCES)
    expected = model.encode(teachers).flatten(1)
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
    """One-shot regression by the same networks, trainer and settings; kept in the scratch folder for each LAE.

    Raises:
        ValueError: The embeddings in the scratch folder are of other people, or a run of other settings, people or
            latents is there.
    """
    people = []
    for split in ("train", "validation"):
        teachers, conditions = conditions_of_teachers(split)
        people.append(People(model.encode(teachers), conditions))
    training = replace(DIFFLORA_TRAINING, objective="regression")
    identity = compared_settings(training) | {"latents": [hash_tensor(own.latents) for own in people]}
    folder = BUILD / "regression" / hash_weights(model.lae)[:HASH_DIGITS]
    return train_denoiser(*people, model.config.dit, model.config.mif, training, folder, identity=identity)[0]
