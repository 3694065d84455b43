"""Stage `difflora`: LAE, MIF and DiT on the miniature's teachers, and the recommended sampling.

Everything that is chosen is chosen on validation people.
"""

from dataclasses import replace
from pathlib import Path

import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import CONFIGURATIONS, MIFConfig
from miniature.base_model.config import lora_layout
from miniature.measure.lora_evaluation import open_evaluation
from miniature.world.image_blocks import BASE_IMAGES, BASE_PEOPLE
from training.autoencoder.config import LAETraining
from training.autoencoder.train import train_lae
from training.denoiser.config import DiffLoRATraining
from training.denoiser.train import train_denoiser
from training.engine.config import EvaluationConfig, TrainConfig
from training.people.assembly import assemble
from training.people.conditions import Conditions, People
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsInMemory

from .embeddings import embed_people, load_conditions_of
from .finetune import finetune_denoiser_in_processes, finetune_lae_in_processes
from .joint import JOINT_RUNS, train_together_in_processes
from .sampling_choice import choose_by_similarity, conditions_of

# R² on validation people's teachers as fitted: tied 0.529; untied with as many parameters (28 channels) 0.474; PCA,
# four times as large, 0.581
LAE_CONFIG = LAEConfig(tokens=22, width=16, chunk=2048, channels=44, tied=True)
DIT_CONFIG = CONFIGURATIONS["miniature"]
LAE_TRAINING = LAETraining()
# In latent space R² on validation people is 0.23 at 2,000 steps and hardly changes later; fine-tuning does the rest
DIFFLORA_TRAINING = DiffLoRATraining(
    TrainConfig(steps=2500, learning_rate=1e-3, warmup=200, weight_decay=0.02, ema=0.999),
    EvaluationConfig(interval=500),
    modality_dropout=0.3,
)
SAMPLING_PEOPLE = 16
"""Validation people for choosing the sampling."""


def train_difflora(build: Path, weights: Path, tokenizer: Path, processes: int) -> None:
    """Train LAE, then MIF and DiT, first in weight or latent space and then end to end, then all together.

    The recommended sampling is chosen at the end.

    Writes weights/difflora/miniature.safetensors. Resumable.

    Args:
        build: Scratch folder, with the teachers.
        weights: Folder of what ships, with the base model and the encoders.
        tokenizer: Folder of CLIP's tokenizer.
        processes: How many share the fine-tuning.
    """
    store, layout = LoRAStore(build / "teachers", lora_layout()), lora_layout()
    loras, people = store.read("train")
    validation, validation_people = store.read("validation")
    conditions, validation_conditions = embed_all(build, people, validation_people)
    lae, lae_history = train_lae(
        LoRAsInMemory(loras), LoRAsInMemory(validation), layout, LAE_CONFIG, LAE_TRAINING, build
    )
    lae_finetuning = finetune_lae_in_processes(lae, build, weights, tokenizer, processes)
    mif = MIFConfig(conditions.face.shape[-1], conditions.image.shape[-1], DIT_CONFIG.condition_width)
    with torch.no_grad():
        train_data = People(lae.encode(loras), conditions)
        validation_data = People(lae.encode(validation), validation_conditions)
    denoiser, history = train_denoiser(train_data, validation_data, DIT_CONFIG, mif, DIFFLORA_TRAINING, build)
    finetuning = finetune_denoiser_in_processes(denoiser, lae, build, weights, tokenizer, processes)
    joint = {
        run.name: train_together_in_processes(run, denoiser, lae, build, weights, tokenizer, processes)
        for run in JOINT_RUNS
    }
    config = DiffLoRAConfig(LAE_CONFIG, DIT_CONFIG, mif, EncoderNames("miniature", "miniature"))
    model = assemble(lae, denoiser, config)
    evaluation = open_evaluation(weights, tokenizer, validation_people[:SAMPLING_PEOPLE])
    mixed = conditions_of(model, validation_conditions, SAMPLING_PEOPLE)
    sampling, tried = choose_by_similarity(model, evaluation, mixed, validation[:SAMPLING_PEOPLE])
    provenance = {
        "people": len(people),
        "validation_people": len(validation_people),
        "lae": lae_history,
        "lae_finetuning": lae_finetuning,
        "denoiser": history,
        "denoiser_finetuning": finetuning,
        "joint_training": joint,
        "sampling": tried,
    }
    model.config = replace(config, sampling=sampling, provenance=provenance)
    path = weights / "difflora" / "miniature.safetensors"
    model.save(path)
    print(f"  chosen: {sampling}; wrote {path}", flush=True)


def embed_all(build: Path, people: list[int], validation_people: list[int]) -> tuple[Conditions, Conditions]:
    """Embed all people's images, unless that has been done; the conditions of training and validation people.

    Raises:
        ValueError: The files in the build folder hold other people.
    """
    folder = build / "conditions"
    embed_people(folder / "train.safetensors", people)
    embed_people(folder / "validation.safetensors", validation_people)
    embed_people(folder / "all_people.safetensors", range(BASE_PEOPLE), BASE_IMAGES)
    return (
        load_conditions_of(folder / "train.safetensors", people),
        load_conditions_of(folder / "validation.safetensors", validation_people),
    )
