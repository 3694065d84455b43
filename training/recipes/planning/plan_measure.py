"""`plan --measure`: figures of the present machine, measured with the recipe's own base model and settings."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from training.autoencoder.lae_dry_run import step_cost as lae_cost
from training.autoencoder.settings import LAESettings
from training.denoiser.difflora_dry_run import step_cost as difflora_cost
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import FinetuneSettings, JointSettings
from training.engine.settings import read_settings
from training.engine.step_cost import StepCost
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.cost import Measurement, measure
from training.people.latents import open_lae
from training.recipes.recipe import Recipe, Step
from training.recipes.step_files import LAE_FILE

from .cards import (
    BatchTime,
    Card,
    DiTTraining,
    DreamBoothFigure,
    DreamBoothFigures,
    GuidedStep,
    MatrixProducts,
    StepFigure,
)
from .network_sizes import NetworkSize
from .plan_dataset import STAGE_OFFSET_GIB
from .plan_row import situation
from .scaling import GIB

NOTE = "by --measure"
MATRIX = {"cuda": (8192, torch.bfloat16), "cpu": (1024, torch.float32)}
"""Rows and columns, and dtype, of the products that the rate is measured with."""
ROUNDS = 5


def measure_card(recipe: Recipe, card: Card | None) -> Card:
    """Measure what the recipe's steps need, and take it in place of a card's figures.

    Args:
        recipe: Whose base model and settings are used.
        card: Whose figures are kept where nothing is measured (encoders, optimizer, sampling), if they are of the
            recipe's base model; None has none.

    Raises:
        FileNotFoundError: The base model, or the configuration of its U-Net, is missing.
        RuntimeError: The recipe is for GPUs, and there is none here.
    """
    check_inputs(recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if recipe.gpus and device == "cpu":
        raise RuntimeError(
            "--measure measures on the present GPU, and torch finds none; without it, --gpu names a card"
        )
    title = f"{torch.cuda.get_device_name() if device == 'cuda' else 'this CPU'}, measured just now"
    _say("the rate of matrix products")
    sdxl = situation(recipe, 1, recipe.gpus, None).sdxl
    known = card if card and card.sdxl == sdxl else Card(title, sdxl=sdxl)
    measured = replace(known, title=title, steps=(), matrix_products=matrix_products(device))
    for step in recipe.steps:
        if step.is_dataset:
            measured = _with_dataset(measured, recipe, load_config(step.settings), device)
    return _with_trainers(measured, recipe)


def check_inputs(recipe: Recipe) -> None:
    """Check that the files are there that measuring needs.

    Raises:
        FileNotFoundError: All that are missing are named, with their settings.
    """
    needed: dict[str, Path] = {}
    for step in recipe.steps:
        if step.is_dataset:
            needed[f"{step.settings.name}: base"] = load_config(step.settings).base
        elif step.command == "train-lae":
            layout = read_settings(LAESettings, step.settings).layout
            if layout and layout.unet:
                needed[f"{step.settings.name}: layout.unet"] = layout.unet
    if missing := [f"{path} ({setting})" for setting, path in needed.items() if not path.exists()]:
        raise FileNotFoundError(f"--measure needs what is not there: {'; '.join(missing)}")


def matrix_products(device: str) -> MatrixProducts:
    """Measure the rate of large matrix products, the best of a few."""
    side, dtype = MATRIX[device]
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        float((one @ other)[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    name = str(dtype).removeprefix("torch.")
    return MatrixProducts(2 * side**3 / min(times[1:]) / 1e12, f"products of {side} × {side} in {name}, {NOTE}")


def _with_dataset(card: Card, recipe: Recipe, config: DatasetConfig, device: str) -> Card:
    """Measure a guided step, dreambooth's batch, and the batches of end-to-end fine-tuning."""
    figures: list[DreamBoothFigure] = []
    settings = config.dreambooth
    _say(f"a denoising step, and dreambooth with {settings.people} people")
    found = measure(config, device)
    rows = settings.people * settings.images_per_person * (2 if settings.prior_weight else 1)
    figures.append(_figure(config, settings.gradient_checkpointing, rows, found))
    size = config.generate.size if config.generate.enabled else config.preprocess.size
    for count, checkpointing in sorted(_finetuned_rows(recipe)):
        if (count, checkpointing) in [(figure.people, figure.gradient_checkpointing) for figure in figures]:
            continue
        _say(f"the U-Net forward and back with {count} images, as end-to-end fine-tuning does")
        own = replace(
            settings, people=count, images_per_person=1, gradient_checkpointing=checkpointing, prior_weight=0.0
        )
        batch = replace(config, dreambooth=own)
        figures.append(_figure(batch, checkpointing, count, measure(batch, device)))
    guided = GuidedStep(size, 2000 * found.seconds_per_image_step, f"two rows without guidance, {NOTE}")
    return replace(card, guided_step=guided, dreambooth=DreamBoothFigures(NOTE, tuple(figures)))


def _figure(config: DatasetConfig, gradient_checkpointing: bool, rows: int, found: Measurement) -> DreamBoothFigure:
    peak = 0.0 if found.training_peak is None else max(0.0, found.training_peak / GIB - STAGE_OFFSET_GIB)
    each = 1000 * found.seconds_per_training_step / rows
    return DreamBoothFigure(config.preprocess.size, gradient_checkpointing, rows, each, peak)


def _finetuned_rows(recipe: Recipe) -> set[tuple[int, bool]]:
    """Images in a micro-batch of end-to-end training, and whether it has gradient checkpointing."""
    rows = set()
    for step in recipe.steps:
        if step.command == "finetune":
            settings = read_settings(FinetuneSettings, step.settings)
            own = settings.lae if settings.network.name == LAE_FILE else settings.denoiser
            rows.add((own.people * settings.images_per_person, settings.gradient_checkpointing))
        elif step.command == "train-teacher-free":
            alone = read_settings(JointSettings, step.settings)
            rows.add((alone.training.people * alone.images_per_person, alone.gradient_checkpointing))
    return rows


def _with_trainers(card: Card, recipe: Recipe) -> Card:
    """Measure steps of the trainers in weight and latent space with random LoRAs and people."""
    at = situation(recipe, 1, recipe.gpus, card)
    steps: list[StepFigure] = []
    for step in recipe.steps:
        if step.command == "train-lae" and at.lae is not None:
            steps.append(_lae_figure(step, at.lae))
        elif step.command == "train-difflora" and at.denoiser is not None:
            _say("a step of train-difflora")
            settings = read_settings(DiffLoRASettings, step.settings)
            cost = difflora_cost(settings, open_lae(settings.lae) if settings.lae.is_file() else None)
            batch, accumulate = settings.training.batch, settings.training.loop.accumulate
            steps.append(_step_figure("train-difflora", at.denoiser, batch, accumulate, cost))
            each = BatchTime(batch, 1000 * cost.seconds / accumulate)
            card = replace(card, dit_training=DiTTraining(settings.dit.name, (each,), NOTE))
    return replace(card, steps=tuple(steps))


def _lae_figure(step: Step, network: NetworkSize) -> StepFigure:
    _say("a step of train-lae")
    settings = read_settings(LAESettings, step.settings)
    assert settings.layout is not None  # else the network is not counted
    cost, training = lae_cost(settings, settings.layout.layout()), settings.training
    return _step_figure("train-lae", network, training.batch, training.loop.accumulate, cost)


def _step_figure(name: str, network: NetworkSize, batch: int, accumulate: int, cost: StepCost) -> StepFigure:
    peak = 0.0 if cost.peak is None else cost.peak / GIB
    return StepFigure(name, batch, NOTE, network.parameters, ms=1000 * cost.seconds, accumulate=accumulate, gib=peak)


def _say(what: str) -> None:
    print(f"measuring {what} …", file=sys.stderr, flush=True)
