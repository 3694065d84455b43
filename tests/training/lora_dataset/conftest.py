"""The miniature's face models, a PhotoMaker with random weights, and two preprocessed people."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from difflora_core.encoders.face_encoder import FaceEncoder
from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.encoders.photomaker import initial_encoder
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import TEACHER_SCENES, caption
from training.base_model.sdxl import SDXLBase
from training.dreambooth.config import DreamBoothConfig
from training.lora_dataset.config import DatasetConfig, PreprocessConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.photomaker.photomaker_file import official_lora_names, write_photomaker
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages.preprocess import PREPROCESS

PEOPLE = ("anna", "bert")


@pytest.fixture(scope="session")
def photomaker_lora() -> tuple[LoRALayout, Tensor]:
    layout = LoRALayout.from_config(base_config.UNET, 2)
    return layout, 0.05 * torch.randn(layout.numel, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def photomaker_file(tmp_path_factory: pytest.TempPathFactory, photomaker_lora: tuple[LoRALayout, Tensor]) -> Path:
    path, encoder = tmp_path_factory.mktemp("photomaker") / "random.bin", initial_encoder(WEIGHTS)
    with torch.no_grad():  # untrained it hardly changes the class word; a test has to see where the identity comes in
        encoder.fuse_module.mlp1.fc2.weight.mul_(20.0)
        encoder.fuse_module.layer_norm.weight.fill_(1.0)
    write_photomaker(path, encoder, official_lora_names(photomaker_lora[1], photomaker_lora[0]))
    return path


@pytest.fixture(scope="session")
def photomaker(sdxl_folder: Path, photomaker_file: Path) -> PhotoMakerPipeline:
    return PhotoMakerPipeline.open(sdxl_folder, photomaker_file)


@pytest.fixture(scope="session")
def faces() -> FaceEncoder:
    return FaceEncoder.open("miniature", WEIGHTS / "insightface")


@pytest.fixture(scope="session")
def preprocessed(tmp_path_factory: pytest.TempPathFactory, sdxl_folder: Path) -> DatasetConfig:
    """Two people with four images; bert lost his second to the filter. Preprocessed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("teachers")
    teacher = DreamBoothConfig(
        feed_forward=True,
        people=2,
        steps=3,
        images_per_person=2,
        learning_rate=1e-2,
        dtype="fp32",
        gradient_checkpointing=False,
    )
    prepared = PreprocessConfig(size=128, held_out=0)
    config = DatasetConfig(folder / "work", sdxl_folder, preprocess=prepared, dreambooth=teacher)
    for number, name in enumerate(PEOPLE):
        images = []
        for position, scene in enumerate(TEACHER_SCENES[:4]):
            file = f"generate/{name}/{position:03d}.png"
            path = config.workspace / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(person(30 + number), scene).image).save(path)
            images.append({"file": file, "caption": caption(scene)})
        Manifest(config.stage("generate")).write(Record(name, facts={"images": images}))
        kept = [images[i] for i in ((0, 2, 3) if name == "bert" else (3, 1, 0, 2))]
        Manifest(config.stage("filter")).write(Record(name, facts={"kept": kept}))
    run_stage(PREPROCESS, config)
    return config


@pytest.fixture(scope="session")
def sdxl(sdxl_folder: Path) -> SDXLBase:
    """Not to be changed."""
    return SDXLBase.open(sdxl_folder)
