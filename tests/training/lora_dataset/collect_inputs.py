"""Inputs of the stage collect, made of drawn people, and its run on them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.lora_dataset.config import CollectConfig, DatasetConfig, FacesConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages.collect import COLLECT

FACES = FacesConfig("miniature", WEIGHTS / "insightface")


def drawn_image(index: int, number: int) -> Image.Image:
    """The n-th image of a validation person."""
    scene = reference_scene(np.random.default_rng([31, index, number]))
    return Image.fromarray(draw(person(index), scene).image)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def settings(workspace: Path, path: Path | str, **collect: object) -> DatasetConfig:
    values = {"min_face": 40, "same_person": 0.85, "same_image": 0.99} | collect
    return DatasetConfig(workspace, workspace, FACES, CollectConfig(path=str(path), **values))


def run(config: DatasetConfig) -> dict[str, Record]:
    """The records of collect by item."""
    torch.set_num_threads(1)
    run_stage(COLLECT, config)
    return {record.item: record for record in Manifest(config.stage("collect")).records()}
