"""What a run will cost: pictures, disk, hours, from a short measurement of the base model on this device."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from training.base_model.sdxl import DTYPES, SDXLBase
from training.dreambooth.train import DreamBoothConfig, shared_start, train_loras

from .config import DatasetConfig
from .manifest import Manifest
from .stage import waiting
from .stage_registry import load_stage

MEASURED_STEPS = 3
PICTURE_BYTES_PER_PIXEL = 1.5
"""Of a PNG of a photograph, roughly; flat drawings take far less."""


@dataclass(frozen=True)
class Speed:
    """Seconds on the measured device. picture_step: one picture, one denoising step without guidance. teacher_step: one
    optimizer step of a whole group of people.
    """

    picture_step: float
    teacher_step: float


def measure(config: DatasetConfig, device: str) -> tuple[Speed, int]:
    """A few steps at the configured sizes with random numbers, and how many numbers a LoRA has."""
    settings = config.dreambooth
    base = SDXLBase.open(config.base, device, DTYPES[settings.dtype])
    layout = base.layout(settings.rank, settings.feed_forward)
    context, pooled = base.encode_text(["a portrait of a person"])

    def predict(rows: int, size: int) -> Tensor:
        noisy = torch.zeros(rows, 4, size // 8, size // 8, device=base.device, dtype=base.dtype)
        times = torch.full((rows,), 500, device=base.device)
        return base.predict(noisy, times, context.expand(rows, -1, -1), pooled.expand(rows, -1), size)

    with torch.no_grad():
        picture = _seconds(
            lambda: predict(1, config.generate.size if config.generate.enabled else config.preprocess.size)
        )
    ticks = []

    def loss(step: int, generator: torch.Generator) -> Tensor:
        return predict(settings.people * settings.rows, config.preprocess.size).float().square().mean()[None]

    start = shared_start(layout).to(base.device)
    short = DreamBoothConfig(steps=MEASURED_STEPS + 1, rows=settings.rows)
    train_loras(base.unet, layout, start, settings.people, loss, short, lambda _: ticks.append(time.monotonic()))
    steps = [after - before for before, after in pairwise(ticks)]
    return Speed(picture, median(steps)), layout.numel


def estimate(config: DatasetConfig, names: Sequence[str]) -> str:
    """The cost of what is left of the named stages, a line each."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    speed, numel = measure(config, device)
    collected = Manifest(config.stage("collect"))
    people = len(collected.done()) or len(load_stage("collect").items(config))
    lines = [f"{people} people, measured on {device}:"]
    for name in names:
        todo = len(waiting(load_stage(name), config)) if (config.workspace / name).exists() else people
        lines.append(f"  {name:11s}" + _cost(name, config, todo, people, speed, numel))
    return "\n".join(lines)


def _cost(name: str, config: DatasetConfig, todo: int, people: int, speed: Speed, numel: int) -> str:
    generate, teachers = config.generate, config.dreambooth
    if name == "generate" and generate.enabled:
        pictures = todo * generate.pictures
        passes = 2 if generate.guidance > 1 else 1
        hours = pictures * generate.steps * passes * speed.picture_step / 3600
        disk = pictures * generate.size**2 * PICTURE_BYTES_PER_PIXEL
        return f"{pictures} pictures, {_bytes(disk)}, {hours:.2f} h"
    if name == "preprocess":
        each = generate.pictures if generate.enabled else config.collect.max_pictures
        return (
            f"at most {todo * each} pictures, {_bytes(todo * each * 8 * (config.preprocess.size // 8) ** 2)} of latents"
        )
    if name == "dreambooth":
        groups = todo if (config.workspace / name).exists() else -(-people // teachers.people)
        hours = groups * teachers.steps * speed.teacher_step / 3600
        rate = 3600 * teachers.people / (teachers.steps * speed.teacher_step)
        return (
            f"{groups} groups of {teachers.people}, {_bytes(4 * numel * people)}, {hours:.2f} h ({rate:.0f} people/h)"
        )
    if name == "pack":
        return f"{people} LoRAs of {numel:,} numbers, {_bytes(4 * numel * people)}"
    return f"{min(todo, config.verify.people) if name == 'verify' else todo} items"


def _seconds(run: Callable[[], object]) -> float:
    """Median of a few runs after one that warms up."""
    times = []
    for _ in range(MEASURED_STEPS + 1):
        start = time.monotonic()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return median(times[1:])


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
