"""The build: the whole miniature from scratch, stage by stage (`python -m miniature build`).

Each stage is a function that returns at once if its result is there, continues where it was interrupted, and writes
only whole files. Scratch (images, latents, optimizer states) lies in miniature/build, what ships in miniature/weights.
A stage imports what it needs when it runs, so that one can be run where the libraries of another are missing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import torch

from difflora_core.files import replacing
from miniature.comfyui.host import find_tokenizer
from miniature.paths import BUILD, WEIGHTS


@dataclass(frozen=True)
class BuildConfig:
    """Where a build reads and writes, and how many processes it uses."""

    build: Path = BUILD
    """Scratch folder."""
    weights: Path = WEIGHTS
    """Folder of what ships."""
    processes: int = max(1, os.cpu_count() or 1)
    """Of one thread each."""

    @cached_property
    def tokenizer(self) -> Path:
        """Folder of the SDXL tokenizer's files."""
        return find_tokenizer()


def images(config: BuildConfig) -> None:
    """Draw the training people."""
    from miniature.world.image_blocks import draw_blocks, training_blocks

    draw_blocks(config.build / "images", training_blocks(), config.processes)


def vae(config: BuildConfig) -> None:
    """Train the base model's autoencoder."""
    from miniature.base_model.train_vae import train_vae

    train_vae(config.build, config.processes)


def faces(config: BuildConfig) -> None:
    """Train the face detector and both recognizers, and export them as ONNX."""
    from miniature.encoders.faces.train_detector import train_detector
    from miniature.encoders.faces.train_recognizers import train_recognizers

    train_recognizers(config.build, config.weights)
    train_detector(config.build, config.weights)


def image_encoder(config: BuildConfig) -> None:
    """Train the CLIP vision model."""
    from miniature.encoders.train_clip_vision import train_image_encoder

    train_image_encoder(config.build, config.weights)


def judge(config: BuildConfig) -> None:
    """Train the judges of attributes and of eyes, which measure generated images."""
    from miniature.measure.eye_judge import train_eye_judge
    from miniature.measure.judge import train_judge

    train_judge(config.build, config.weights)
    train_eye_judge(config.build, config.weights)


def metrics(config: BuildConfig) -> None:
    """Train small networks of CLIP, DINO, ImageReward and PickScore, for metrics; they stay in the scratch folder."""
    from miniature.measure.metric_models.stage import train_metric_models

    train_metric_models(config.build, config.tokenizer, config.processes)


def base(config: BuildConfig) -> None:
    """Train U-Net and text encoders and write the single-file checkpoint."""
    from miniature.base_model.checkpoint import write_checkpoint
    from miniature.base_model.train import train_base

    train_base(config.build, config.tokenizer, config.processes)
    write_checkpoint(config.build, config.weights, config.tokenizer)


def control(config: BuildConfig) -> None:
    """Train the Control-LoRA, which makes the base model follow edges."""
    from miniature.base_model.train_control_lora import train_control

    train_control(config.build, config.weights, config.tokenizer, config.processes)


def outfit(config: BuildConfig) -> None:
    """Train the second LoRA: a blue beanie for any person."""
    from miniature.base_model.outfit_lora import train_outfit

    train_outfit(config.build, config.weights, config.tokenizer)


def photomaker(config: BuildConfig) -> None:
    """Train the identity encoder of the LoRA dataset pipeline; it stays in the scratch folder."""
    from miniature.encoders.photomaker import train_photomaker

    train_photomaker(config.build, config.weights, config.tokenizer, config.processes)


def instantid(config: BuildConfig) -> None:
    """Train InstantID, which DiffLoRA is compared with; it stays in the scratch folder."""
    from miniature.encoders.instantid import train_instantid

    train_instantid(config.build, config.weights, config.tokenizer, config.processes)


def teachers(config: BuildConfig) -> None:
    """Train a LoRA for each person of all splits; processes share the batches."""
    from training.engine.processes import end_with_parent

    with ProcessPoolExecutor(config.processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        jobs = [pool.submit(_train_teachers, config, part) for part in range(config.processes)]
        for job in jobs:
            job.result()


def _train_teachers(config: BuildConfig, part: int) -> None:
    from miniature.base_model.checkpoint import load_checkpoint
    from miniature.base_model.model import Tokenizer
    from miniature.personal.teachers import train_split

    torch.set_num_threads(1)
    tokenizer = Tokenizer(config.tokenizer)
    model, autoencoder = load_checkpoint(config.weights)
    for split in ("validation", "train", "held_out"):
        train_split(config.build, split, model, autoencoder, tokenizer, part, config.processes)


def difflora(config: BuildConfig) -> None:
    """Train LAE, MIF and DiT, choose the sampling defaults on validation people, and write the checkpoint."""
    from miniature.personal.train import train_difflora

    train_difflora(config.build, config.weights, config.tokenizer, config.processes)


def held_out(config: BuildConfig) -> None:
    """Write the held-out people's teachers, for comparison only."""
    from miniature.personal.ship_held_out import ship_held_out

    ship_held_out(config.build, config.weights, config.tokenizer)


STAGES: dict[str, Callable[[BuildConfig], None]] = {
    stage.__name__: stage
    for stage in (
        images,
        vae,
        faces,
        image_encoder,
        judge,
        metrics,
        base,
        control,
        outfit,
        photomaker,
        instantid,
        teachers,
        difflora,
        held_out,
    )
}


def build(config: BuildConfig, stages: list[str]) -> None:
    """Run stages in order; the seconds of each are summed in build/seconds.json, also over interruptions."""
    torch.set_num_threads(1)
    path = config.build / "seconds.json"
    for name in stages:
        start = time.monotonic()
        print(f"stage {name}: {(STAGES[name].__doc__ or '').splitlines()[0]}")
        try:
            STAGES[name](config)
        finally:
            seconds = json.loads(path.read_text()) if path.exists() else {}
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
            with replacing(path) as partial:
                partial.write_text(json.dumps(seconds, indent=1))
