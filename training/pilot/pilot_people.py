"""Whom a pilot trains: people of the dataset whose images are prepared, or some that it prepares for itself.

Nobody of the split test: teachers' settings are chosen on other people than those on whom methods are compared.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from difflora_core.images import read_image
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.images.faces import unit
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stage_registry import IMAGE_STAGES, load_stage
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages.pack_plan import split_of
from training.lora_dataset.stages.preprocess import chosen_images
from training.lora_dataset.workspace_lock import workspace_lock


def prepare_people(config: DatasetConfig, folder: Path, count: int, device: str) -> tuple[DatasetConfig, list[str]]:
    """Return people with prepared images.

    The stages from collect to preprocess are run for so many people in the pilot's own workspace, folder/dataset,
    unless the dataset's workspace has prepared as many and the pilot has none of its own. Nothing is written to the
    dataset's workspace.

    Args:
        config: Of the recipe's dataset.
        folder: Of the pilot.
        count: How many people are wanted.
        device: As torch names it.

    Returns:
        The configuration with the workspace that has them, and their names; fewer than wanted if the source has no
        more.

    Raises:
        ValueError: There is nobody.
    """
    if config.preprocess.held_out < 1:
        raise ValueError(
            "preprocess.held_out is 0: a pilot measures on images that are kept from training, set it to 1"
        )
    own = replace(config, workspace=folder / "dataset")
    if not own.workspace.exists() and len(people := _prepared(config)) >= count:
        return config, people[:count]
    people = _run_stages(own, count, device)
    if not people:
        raise ValueError(
            f"nobody is left to train: the records in {own.workspace} say why the stages {', '.join(IMAGE_STAGES)} "
            "dropped everybody"
        )
    return own, people[:count]


def _prepared(config: DatasetConfig) -> list[str]:
    shares = config.pack.validation, config.pack.test
    return [who for who in Manifest(config.stage("preprocess")).done() if split_of(who, *shares) != "test"]


def _run_stages(config: DatasetConfig, count: int, device: str) -> list[str]:
    """Run the stages for as many candidates as it takes; the names of those who are left."""
    candidates = max(count, _collected(config))
    while True:
        limited = replace(config, collect=replace(config.collect, max_people=candidates))
        with workspace_lock(config.workspace):
            for name in IMAGE_STAGES:
                run_stage(load_stage(name), limited, device)
        people = _prepared(config)
        if len(people) >= count or _collected(config) < candidates:
            return people
        candidates += count - len(people)


def _collected(config: DatasetConfig) -> int:
    return sum(record.status != "gone" for record in Manifest(config.stage("collect")).records())


def kept_out_files(config: DatasetConfig, person: str) -> list[Path]:
    """Return the files of a person's images that are kept from training."""
    chosen, _ = chosen_images(config, person)
    return [config.workspace / image["file"] for image in chosen[-config.preprocess.held_out :]]


def kept_out_faces(config: DatasetConfig, people: Sequence[str], encoder: FaceEncoder) -> list[Tensor]:
    """Return unit-length embeddings (images, width) of each person's images that are kept from training.

    An image without a face is passed over.

    Raises:
        ValueError: None of somebody's images shows a face.
    """
    found = []
    for person in people:
        files = kept_out_files(config, person)
        faces = [face for file in files if (face := face_of(np.asarray(read_image(file)), encoder)) is not None]
        if not faces:
            raise ValueError(
                f"the measuring face pack finds no face in the images of {person} that are kept from training: "
                f"{', '.join(map(str, files))}"
            )
        found.append(torch.stack(faces))
    return found


def face_of(image: np.ndarray, encoder: FaceEncoder) -> Tensor | None:
    """Embed the largest face of uint8 (height, width, 3), unit-length (width,); None if there is none."""
    try:
        return torch.from_numpy(unit(encoder.find(image).embedding.numpy()))
    except NoFaceError:
        return None
