"""The second half of stage `difflora`: LAE, then MIF and DiT, tuned through the base model's pictures.

Several processes share the work. What they agree on is read from files that the stage wrote before.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from difflora_core.autoencoder.model import LAE
from difflora_core.files import read_tensors
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.model import Tokenizer
from training.base_model.teacher_recovery import TeacherRecovery
from training.denoiser.train import Denoiser
from training.end_to_end.objectives import (
    Autoencode,
    DenoiserFinetuning,
    FinetuneDataset,
    LAEFinetuning,
    denoiser_loss,
    lae_loss,
    recovery_by_steps,
)
from training.engine.loop import TrainConfig
from training.engine.processes import in_processes
from training.engine.rounds import train_in_rounds
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsInMemory

from .embeddings import load_conditions
from .person_images import diffusion_loss, draw_albums, training_albums
from .teachers import layout

LAE_PICTURES = LAEFinetuning(TrainConfig(steps=1500, learning_rate=3e-4, warmup=30, ema=0.98, save_every=100))
LAE_ROUNDS = 5
DENOISER_PICTURES = DenoiserFinetuning(
    TrainConfig(
        steps=2000, learning_rate=5e-4, warmup=50, weight_decay=0.02, ema=0.99, save_every=100, unused_parameters=True
    )
)
DENOISER_ROUNDS = 10
VALIDATION_REFERENCES = 3

Figures = dict[str, dict[str, float]]


class Bench:
    """What both trainings need: the base model, teachers, albums."""

    def __init__(self, build: Path, weights: Path, tokenizer: Path) -> None:
        store = LoRAStore(build / "teachers", layout())
        self.build = build
        self.loras, self.people = store.read("train")
        self.validation, self.validation_people = store.read("validation")
        base, vae = load_checkpoint(weights)
        base.requires_grad_(False)
        self.pictures = diffusion_loss(base, Tokenizer(tokenizer))
        self.albums = training_albums(build)
        self.recovery = TeacherRecovery(self.pictures, draw_albums(vae, self.validation_people), self.validation)


def tune_lae(lae: LAE, build: Path, weights: Path, tokenizer: Path, processes: int) -> Figures:
    """Tune in place, latents standardized anew; figures of each round. Resumable in build/lae_pictures*.safetensors."""
    in_processes(_tune_lae, processes, lae, build, weights, tokenizer)
    figures = _take_best(Autoencode(lae), build / "lae_pictures_best.safetensors")
    lae.fit_latents(LoRAStore(build / "teachers", layout()).read("train")[0])
    return figures


def _tune_lae(rank: int, processes: int, lae: LAE, build: Path, weights: Path, tokenizer: Path) -> None:
    bench = Bench(build, weights, tokenizer)
    lae.requires_grad_(True)
    albums = [bench.albums[index] for index in bench.people]

    @torch.no_grad()
    def validate() -> dict[str, float]:
        return {"teacher_recovery": bench.recovery(lae.decode(lae.encode(bench.validation)))}

    train_in_rounds(
        Autoencode(lae),
        lae_loss(lae, LoRAsInMemory(bench.loras), albums, bench.pictures, LAE_PICTURES),
        LAE_PICTURES.loop,
        build,
        "lae_pictures",
        LAE_ROUNDS,
        lambda: {"fitted": validate()},
        validate,
        _tell,
        by="teacher_recovery",
    )


def tune_denoiser(denoiser: Denoiser, lae: LAE, build: Path, weights: Path, tokenizer: Path, processes: int) -> Figures:
    """Tune in place; figures of each round. Resumable in build/difflora_pictures*.safetensors."""
    in_processes(_tune_denoiser, processes, denoiser, lae, build, weights, tokenizer)
    return _take_best(denoiser, build / "difflora_pictures_best.safetensors")


def _tune_denoiser(
    rank: int, processes: int, denoiser: Denoiser, lae: LAE, build: Path, weights: Path, tokenizer: Path
) -> None:
    bench = Bench(build, weights, tokenizer)
    lae.eval().requires_grad_(False)
    conditions, people = load_conditions(build / "conditions" / "everyone.safetensors")
    everyone = FinetuneDataset(
        conditions,
        [bench.albums[index] for index in people.tolist()],
        torch.tensor([people.tolist().index(index) for index in bench.people]),
        lae.encode(bench.loras),
    )
    others, _ = load_conditions(build / "conditions" / "validation.safetensors")

    def validate() -> dict[str, float]:
        return recovery_by_steps(bench.recovery, lae, denoiser, others.first(VALIDATION_REFERENCES))

    train_in_rounds(
        denoiser,
        denoiser_loss(denoiser, lae, everyone, bench.pictures, DENOISER_PICTURES),
        DENOISER_PICTURES.loop,
        build,
        "difflora_pictures",
        DENOISER_ROUNDS,
        lambda: {"before": validate()},
        validate,
        _tell,
        by="teacher_recovery",
    )


def _take_best(module: nn.Module, path: Path) -> Figures:
    """Load the best round that the processes left, and what they found."""
    weights, metadata = read_tensors(path)
    module.load_state_dict(weights)
    return json.loads(metadata["figures"])


def _tell(name: str, figures: dict[str, float]) -> None:
    print(f"  {name}: {figures}", flush=True)
