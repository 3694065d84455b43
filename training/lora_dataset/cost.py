"""What a run will cost: images, disk, hours, from a short measurement of the base model on this device."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from training.base_model.interface import BaseModel, TextEmbeddings
from training.dreambooth.train import shared_start, train_loras
from training.engine.format import format_bytes

from .config import DatasetConfig
from .configured_base import open_configured_base
from .manifest import Manifest
from .stage_registry import load_stage
from .stage_run import compare

MEASURED_STEPS = 3
BYTES_PER_PIXEL = 1.5
"""Of a PNG of a photograph, roughly; flat drawings take far less."""
BYTES_PER_WEIGHT = 4
"""LoRAs are stored in float32."""
BYTES_PER_LATENT_VALUE = 2
"""Latents are stored in float16."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of the base model on one device."""

    seconds_per_image_step: float
    """One image, one denoising step without guidance."""
    seconds_per_training_step: float
    """One optimizer step of a whole group of people."""
    lora_weights: int
    """Weights of a LoRA."""
    latent_values: int
    """Values of a training image's latent."""


def measure(config: DatasetConfig, device: str) -> Measurement:
    """Run a few steps at the configured sizes on zeros."""
    base = open_configured_base(config, device)
    texts = base.encode_text(["a portrait of a person"])
    size = config.preprocess.size
    with torch.no_grad():
        seconds_per_image_step = _median_seconds(
            lambda: _predict(base, texts, 1, config.generate.size if config.generate.enabled else size)
        )
    layout = base.layout(config.dreambooth.rank, config.dreambooth.feed_forward)
    return Measurement(
        seconds_per_image_step,
        _seconds_per_training_step(config, base, texts),
        layout.numel,
        torch.Size(base.latent_shape(size)).numel(),
    )


def _predict(base: BaseModel, texts: TextEmbeddings, batch: int, size: int) -> Tensor:
    noisy = torch.zeros(batch, *base.latent_shape(size), device=base.device, dtype=base.dtype)
    timesteps = torch.full((batch,), 500, device=base.device)
    rows = {name: row.expand(batch, *row.shape[1:]) for name, row in texts.items()}
    return base.predict(noisy, timesteps, rows, size)


def _seconds_per_training_step(config: DatasetConfig, base: BaseModel, texts: TextEmbeddings) -> float:
    settings = config.dreambooth
    batch = settings.people * settings.images_per_person

    def loss(_: int) -> Tensor:
        return _predict(base, texts, batch, config.preprocess.size).float().square().mean()[None]

    layout = base.layout(settings.rank, settings.feed_forward)
    start, ends = shared_start(layout).to(base.device), []
    short = replace(settings, steps=MEASURED_STEPS + 1)
    train_loras(base.unet, layout, start, settings.people, loss, short, lambda _: ends.append(time.monotonic()))
    return median(after - before for before, after in pairwise(ends))


def _median_seconds(run: Callable[[], object]) -> float:
    """Time a few runs after one that warms up."""
    times = []
    for _ in range(MEASURED_STEPS + 1):
        start = time.monotonic()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return median(times[1:])


def estimate(config: DatasetConfig, names: Sequence[str]) -> str:
    """Return the cost of the unfinished part of the named stages, a line each."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured = measure(config, device)
    people = len(Manifest(config.stage("collect")).done()) or len(load_stage("collect").items(config))
    lines = [f"{people} people, measured on {device}:"]
    for name in names:
        lines.append(f"  {name:11s}" + _stage_cost(name, config, _count_pending(name, config), people, measured))
    return "\n".join(lines)


def _count_pending(name: str, config: DatasetConfig) -> int | None:
    """How many items a stage would process; None before its first run, and where the stage before has nobody."""
    if not config.stage(name).exists():
        return None
    try:
        return len(compare(load_stage(name), config).pending)
    except (ValueError, FileNotFoundError):
        return None


def _stage_cost(name: str, config: DatasetConfig, items: int | None, people: int, measured: Measurement) -> str:
    """Return the cost of one stage. items: its unfinished items, None before its first run."""
    todo = people if items is None else items
    lora_bytes = BYTES_PER_WEIGHT * measured.lora_weights * people
    if name == "generate" and config.generate.enabled:
        return _generate_cost(config, todo, measured)
    if name == "preprocess":
        images = todo * (config.generate.images if config.generate.enabled else config.collect.max_images)
        latents = format_bytes(images * BYTES_PER_LATENT_VALUE * measured.latent_values)
        return f"at most {images} images, {latents} of latents"
    if name == "dreambooth":
        groups = -(-people // config.dreambooth.people) if items is None else items
        return _dreambooth_cost(config, groups, lora_bytes, measured)
    if name == "pack":
        return f"{people} LoRAs of {measured.lora_weights:,} weights, {format_bytes(lora_bytes)}"
    return f"{min(todo, config.verify.people) if name == 'verify' else todo} items"


def _generate_cost(config: DatasetConfig, people: int, measured: Measurement) -> str:
    settings = config.generate
    images = people * settings.images
    passes = 2 if settings.guidance_scale > 1 else 1
    hours = images * settings.steps * passes * measured.seconds_per_image_step / 3600
    return f"{images} images, {format_bytes(images * settings.size**2 * BYTES_PER_PIXEL)}, {hours:.2f} h"


def _dreambooth_cost(config: DatasetConfig, groups: int, lora_bytes: float, measured: Measurement) -> str:
    settings = config.dreambooth
    group_hours = settings.steps * measured.seconds_per_training_step / 3600
    return (
        f"{groups} groups of {settings.people}, {format_bytes(lora_bytes)}, {groups * group_hours:.2f} h "
        f"({settings.people / group_hours:.0f} people/h)"
    )
