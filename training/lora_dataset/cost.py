"""What a run will cost: images and disk by arithmetic, then hours and memory by a short measurement on this device."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from training.base_model.diffusion_loss import DiffusionLoss, predictor
from training.base_model.interface import BaseModel, TextEmbeddings
from training.base_model.person_images import PersonImages
from training.dreambooth.train import shared_start, train_loras
from training.engine.format import format_bytes

from .config import DatasetConfig
from .configured_base import configured_latent_shape, configured_layout, open_configured_base
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
MEASURED_STAGES = ("generate", "dreambooth")
"""Whose hours are measured."""


@dataclass(frozen=True)
class Sizes:
    """What disk space depends on."""

    lora_weights: int
    """Weights of a LoRA."""
    latent_values: int
    """Values of a training image's latent."""

    @classmethod
    def of(cls, config: DatasetConfig) -> "Sizes":
        """Count from the base model's configuration, without loading it.

        Raises:
            FileNotFoundError: The base model has no configuration of a U-Net.
        """
        return cls(configured_layout(config).numel, math.prod(configured_latent_shape(config)))


@dataclass(frozen=True)
class Measurement:
    """What was measured of the base model on one device."""

    seconds_per_image_step: float
    """One image, one denoising step without guidance."""
    seconds_per_training_step: float
    """One optimizer step of a whole group of people."""
    training_peak: int | None = None
    """Most bytes that the device held in these steps, the whole base model included; CUDA tells, others don't."""


def measure(config: DatasetConfig, device: str) -> Measurement:
    """Run a few steps at the configured sizes: denoising on zeros, training as the stage trains, on random latents.

    Raises:
        FileNotFoundError: There is no base model.
        ValueError: The folder holds another model.
    """
    base = open_configured_base(config, device)
    texts = base.encode_text(["a portrait of a person"])
    size = config.generate.size if config.generate.enabled else config.preprocess.size
    with torch.no_grad():
        seconds_per_image_step = _median_seconds(lambda: _predict(base, texts, size))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds_per_training_step(config, base, texts)
    return Measurement(seconds_per_image_step, seconds, torch.cuda.max_memory_allocated() if device == "cuda" else None)


def _predict(base: BaseModel, texts: TextEmbeddings, size: int) -> Tensor:
    noisy = torch.zeros(1, *base.latent_shape(size), device=base.device, dtype=base.dtype)
    return base.predict(noisy, torch.full((1,), 500, device=base.device), texts, size)


def _seconds_per_training_step(config: DatasetConfig, base: BaseModel, texts: TextEmbeddings) -> float:
    """Time the optimizer steps of a full group, with the stage's own loss, optimizer and gradient checkpointing."""
    settings, size = config.dreambooth, config.preprocess.size
    count = settings.images_per_person
    latents = torch.randn(count, *base.latent_shape(size), generator=torch.Generator().manual_seed(0)).to(base.device)
    text_rows = torch.zeros(count, dtype=torch.long)
    people = [PersonImages.complete(str(number), latents, text_rows) for number in range(settings.people)]
    loss = DiffusionLoss(
        predictor(base, texts, size),
        base.scheduler(),
        people,
        count,
        settings.seed,
        settings.shared_noise,
        settings.min_snr_gamma,
        settings.prior_weight,
        PersonImages.complete("class", latents, text_rows) if settings.prior_weight else None,
    )
    layout = base.layout(settings.rank, settings.feed_forward)
    start, ends = shared_start(layout).to(base.device), []

    def note(_: int) -> None:
        _wait()
        ends.append(time.monotonic())

    train_loras(base.unet, layout, start, len(people), loss, replace(settings, steps=MEASURED_STEPS + 1), note)
    return median(after - before for before, after in pairwise(ends))


def _median_seconds(run: Callable[[], object]) -> float:
    """Time a few runs after one that warms up."""
    times = []
    for _ in range(MEASURED_STEPS + 1):
        start = time.monotonic()
        run()
        _wait()
        times.append(time.monotonic() - start)
    return median(times[1:])


def _wait() -> None:
    """Wait for the device, which works on while Python goes on."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def estimate(config: DatasetConfig, names: Sequence[str]) -> Iterator[str]:
    """Yield the cost of the unfinished part of the named stages: images and disk at once, then what is measured.

    Raises:
        FileNotFoundError: There is no base model, or no source.
        ValueError: The folder holds another model.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    people = len(Manifest(config.stage("collect")).done()) or len(load_stage("collect").items(config))
    sizes, pending = Sizes.of(config), {name: _count_pending(name, config) for name in names}
    lines = [f"  {name:11s}{_stage_size(name, config, pending[name], people, sizes)}" for name in names]
    yield "\n".join([f"{people} people:", *lines])
    if not any(name in MEASURED_STAGES for name in names):
        return
    measured = measure(config, device)
    hours = {name: _stage_hours(name, config, pending[name], people, measured) for name in names}
    lines = [f"  {name:11s}{text}" for name, text in hours.items() if text]
    yield "\n".join([f"measured on {torch.cuda.get_device_name() if device == 'cuda' else device}:", *lines])


def _count_pending(name: str, config: DatasetConfig) -> int | None:
    """How many items a stage would process; None before its first run, and where the stage before has nobody."""
    if not config.stage(name).exists():
        return None
    try:
        return len(compare(load_stage(name), config).pending)
    except (ValueError, FileNotFoundError):
        return None


def _stage_size(name: str, config: DatasetConfig, items: int | None, people: int, sizes: Sizes) -> str:
    """Return images and disk of one stage. items: its unfinished items, None before its first run."""
    todo = people if items is None else items
    lora_bytes = BYTES_PER_WEIGHT * sizes.lora_weights * people
    if name == "generate" and config.generate.enabled:
        images = todo * config.generate.images
        return f"{images} images, {format_bytes(images * config.generate.size**2 * BYTES_PER_PIXEL)}"
    if name == "preprocess":
        most = config.generate.images if config.generate.enabled else config.collect.max_images
        if not most:
            each = format_bytes(BYTES_PER_LATENT_VALUE * sizes.latent_values)
            return f"all images of {todo} people, {each} of latents for each"
        images = todo * most
        latents = format_bytes(images * BYTES_PER_LATENT_VALUE * sizes.latent_values)
        return f"at most {images} images, {latents} of latents"
    if name == "dreambooth":
        return f"{_groups(config, items, people)} groups of {config.dreambooth.people}, {format_bytes(lora_bytes)}"
    if name == "pack":
        return f"{people} LoRAs of {sizes.lora_weights:,} weights, {format_bytes(lora_bytes)}"
    return f"{min(todo, config.verify.people) if name == 'verify' else todo} items"


def _groups(config: DatasetConfig, items: int | None, people: int) -> int:
    return -(-people // config.dreambooth.people) if items is None else items


def _stage_hours(name: str, config: DatasetConfig, items: int | None, people: int, measured: Measurement) -> str | None:
    """Return the hours of one stage; None where they are not measured. items: as for `_stage_size`."""
    if name == "generate" and config.generate.enabled:
        settings = config.generate
        images = (people if items is None else items) * settings.images
        passes = 2 if settings.guidance_scale > 1 else 1
        return f"{images * settings.steps * passes * measured.seconds_per_image_step / 3600:.2f} h"
    if name != "dreambooth":
        return None
    group_hours = config.dreambooth.steps * measured.seconds_per_training_step / 3600
    hours = (
        f"{_groups(config, items, people) * group_hours:.2f} h ({config.dreambooth.people / group_hours:.0f} people/h)"
    )
    return hours if measured.training_peak is None else f"{hours}, {measured.training_peak / 2**30:.1f} GiB at most"
