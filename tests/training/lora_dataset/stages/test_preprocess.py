"""Preprocess on the miniature: every image and caption is encoded once, and keeps its position among the prompts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.files import read_tensors, write_tensors
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import TEACHER_SCENES, caption
from training.base_model.sdxl import SDXLBase
from training.lora_dataset.config import DatasetConfig, PreprocessConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.preprocess import chosen_images, crop_square, prepared_path, read_prepared, read_texts

PEOPLE = ("anna", "bert")


def test_images_keep_their_positions(preprocessed: DatasetConfig) -> None:
    anna, bert = (read_prepared(preprocessed, name) for name in PEOPLE)
    assert anna.positions == [0, 1, 2, 3]
    assert bert.positions == [0, 2, 3]
    assert bert.prompt_count == 4
    assert anna.captions == [caption(scene) for scene in TEACHER_SCENES[:4]]


def test_a_prompt_is_encoded_once_for_all(preprocessed: DatasetConfig, sdxl: SDXLBase) -> None:
    captions = {caption(scene) for scene in TEACHER_SCENES[:4]}
    assert len(list((preprocessed.stage("preprocess") / "text").iterdir())) == len(captions)
    texts, expected = read_texts(preprocessed, sorted(captions)[:1]), sdxl.encode_text(sorted(captions)[:1])
    assert texts.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(texts[name], tensor)


def test_latents_are_the_autoencoders(preprocessed: DatasetConfig, sdxl: SDXLBase) -> None:
    pixels = torch.from_numpy(draw(person(30), TEACHER_SCENES[0]).image.copy()).permute(2, 0, 1)[None].float() / 255.0
    torch.testing.assert_close(
        read_prepared(preprocessed, "anna").latents[:1], sdxl.encode_images(pixels), rtol=2e-3, atol=2e-3
    )


def test_another_size_asks_for_a_new_run(preprocessed: DatasetConfig) -> None:
    with pytest.raises(ValueError, match="latents of 128 pixels, the configuration says 256"):
        read_prepared(replace(preprocessed, preprocess=PreprocessConfig(size=256)), "anna")


def test_square_around_a_face_stays_inside() -> None:
    image = Image.fromarray(np.arange(100 * 160, dtype=np.uint32).astype(np.uint8).reshape(100, 160)).convert("RGB")
    assert crop_square(image, 64).shape == (64, 64, 3)
    whole = np.asarray(image)
    corner = crop_square(image, 40, (120, 0, 160, 40), 0.0)
    assert np.array_equal(corner, whole[:40, 120:])
    assert np.array_equal(crop_square(image, 100), whole[:, 30:130])


@pytest.mark.parametrize("lacking", ["latents", "size", "captions", "positions", "prompt_count"])
def test_a_file_of_something_else_is_named(preprocessed: DatasetConfig, tmp_path: Path, lacking: str) -> None:
    tensors, metadata = read_tensors(prepared_path(preprocessed, "anna"))
    config = replace(preprocessed, workspace=tmp_path)
    kept = ({name: value for name, value in part.items() if name != lacking} for part in (tensors, metadata))
    write_tensors(prepared_path(config, "anna"), *kept)
    with pytest.raises(ValueError, match=rf"anna\.safetensors holds no prepared images: it has no {lacking}\. Delete"):
        read_prepared(config, "anna")


def test_images_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Positions have to ascend, also beyond a thousand images."""
    config = DatasetConfig(tmp_path, tmp_path)
    images = [{"file": f"collect/ann/{number:03d}.png", "caption": ""} for number in (998, 999, 1000, 1001)]
    Manifest(config.stage("generate")).write(Record("ann", facts={"images": images}))
    Manifest(config.stage("filter")).write(Record("ann", facts={"kept": [images[i] for i in (3, 0, 2, 1)]}))
    assert chosen_images(config, "ann")[0] == images
