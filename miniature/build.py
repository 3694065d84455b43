"""`python -m miniature build`: the whole miniature from nothing, stage by stage.

Each stage is a function that returns at once if its result is there, continues where it was killed, and writes only
whole files. Scratch (pictures, latents, optimizer states) lies in miniature/build, what ships in miniature/weights.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from miniature.comfyui.host import find_host
from miniature.paths import BUILD, WEIGHTS


@dataclass(frozen=True)
class Workshop:
    """Where a build reads and writes, and how many processes it may use (one thread each)."""

    build: Path = BUILD
    weights: Path = WEIGHTS
    processes: int = max(1, os.cpu_count() or 1)

    @property
    def tokenizer(self) -> Path:
        """The SDXL tokenizer's files, which every ComfyUI carries. They are only read."""
        return find_host() / "comfy" / "sd1_tokenizer"


def pictures(shop: Workshop) -> None:
    """Draw the training people."""
    from miniature.world.image_blocks import draw_blocks, training_blocks

    draw_blocks(shop.build / "pictures", training_blocks(), shop.processes)


def vae(shop: Workshop) -> None:
    """Train the autoencoder."""
    from miniature.base_model.train_vae import train_vae

    train_vae(shop.build, shop.processes)


def faces(shop: Workshop) -> None:
    """Train detector and both recognizers, and export them as ONNX."""
    from miniature.encoders.faces.train_detector import train_detector
    from miniature.encoders.faces.train_recognizers import train_recognizers

    train_recognizers(shop.build, shop.weights)
    train_detector(shop.build, shop.weights)


def image_encoder(shop: Workshop) -> None:
    """Train the CLIP vision model."""
    from miniature.encoders.train_clip_vision import train_image_encoder

    train_image_encoder(shop.build, shop.weights)


def judge(shop: Workshop) -> None:
    """Train the attribute judge that measures prompt fidelity."""
    from miniature.measure.judge import train_judge

    train_judge(shop.build, shop.weights)


def base(shop: Workshop) -> None:
    """Train U-Net and text encoders and write the single-file checkpoint."""
    from miniature.base_model.checkpoint import write_checkpoint
    from miniature.base_model.train import train_base

    train_base(shop.build, shop.tokenizer, shop.processes)
    write_checkpoint(shop.build, shop.weights, shop.tokenizer)


def control(shop: Workshop) -> None:
    """Train the Control-LoRA: edges into the base model's pictures."""
    from miniature.base_model.train_control_lora import train_control

    train_control(shop.build, shop.weights, shop.tokenizer, shop.processes)


def outfit(shop: Workshop) -> None:
    """Train the second LoRA: a blue beanie for everybody."""
    from miniature.base_model.outfit_lora import train_outfit

    train_outfit(shop.weights, shop.tokenizer)


def photomaker(shop: Workshop) -> None:
    """Train the identity encoder of the LoRA weight pipeline; it stays in the scratch folder."""
    from miniature.encoders.photomaker import train_photomaker

    train_photomaker(shop.weights, shop.build, shop.tokenizer)


def teachers(shop: Workshop) -> None:
    """Train the LoRAs of all splits; processes share the batches."""
    from training.engine.processes import end_with_parent

    with ProcessPoolExecutor(shop.processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        jobs = [pool.submit(_teach, shop, part) for part in range(shop.processes)]
        for job in jobs:
            job.result()


def _teach(shop: Workshop, part: int) -> None:
    from miniature.base_model.checkpoint import load_checkpoint
    from miniature.base_model.model import Tokenizer
    from miniature.personal.teachers import make_split

    torch.set_num_threads(1)
    tokenizer = Tokenizer(shop.tokenizer)
    model, autoencoder = load_checkpoint(shop.weights)
    for split in ("validation", "train", "held_out"):
        make_split(shop.build, split, model, autoencoder, tokenizer, part, shop.processes)


def difflora(shop: Workshop) -> None:
    """Train LAE, MIF and DiT, choose the sampling defaults on validation people, and write the checkpoint."""
    from miniature.personal.train import train_personal

    train_personal(shop.build, shop.weights, shop.tokenizer, shop.processes)


def held_out(shop: Workshop) -> None:
    """Ship the held-out people's teachers, for comparison only."""
    from miniature.personal.train import ship_held_out

    ship_held_out(shop.build, shop.weights, shop.tokenizer)


STAGES: dict[str, Callable[[Workshop], None]] = {
    stage.__name__: stage
    for stage in (
        pictures,
        vae,
        faces,
        image_encoder,
        judge,
        base,
        control,
        outfit,
        photomaker,
        teachers,
        difflora,
        held_out,
    )
}


def build(shop: Workshop, stages: list[str]) -> None:
    """Run stages in order; seconds of each are added up in build/seconds.json, over interruptions too."""
    torch.set_num_threads(1)
    shop.build.mkdir(parents=True, exist_ok=True)
    clock = shop.build / "seconds.json"
    for name in stages:
        start = time.monotonic()
        print(f"stage {name}: {(STAGES[name].__doc__ or '').splitlines()[0]}")
        try:
            STAGES[name](shop)
        finally:
            seconds = json.loads(clock.read_text()) if clock.exists() else {}
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
            partial = clock.with_suffix(".partial")
            partial.write_text(json.dumps(seconds, indent=1))
            partial.replace(clock)
