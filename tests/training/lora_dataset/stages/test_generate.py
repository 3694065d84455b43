"""The stage on the miniature's SDXL folder, with an identity encoder and a LoRA of random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.lora_dataset.config import DatasetConfig, FacesConfig, GenerateConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.prompt_files import PROMPTS
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages.generate import GENERATE

WHO = 6000  # a validation person


@pytest.fixture
def config(tmp_path: Path, sdxl_folder: Path, photomaker_file: Path) -> DatasetConfig:
    """A workspace in which collect has left one person with three images."""
    generate = GenerateConfig(
        file=photomaker_file,
        images=3,
        prompts=PROMPTS / "miniature.txt",
        negative=PROMPTS / "empty.txt",
        size=128,
        steps=2,
        references=2,
        batch=2,
    )
    pack = FacesConfig(pack="miniature", root=WEIGHTS / "insightface")
    made = DatasetConfig(workspace=tmp_path, base=sdxl_folder, faces=pack, generate=generate)
    collect(made, [drawn(k) for k in range(3)])
    return made


def drawn(number: int) -> np.ndarray:
    """A reference image of the person: uint8 (128, 128, 3)."""
    return draw(person(WHO), reference_scene(np.random.default_rng(number))).image


def collect(config: DatasetConfig, images: list[np.ndarray]) -> None:
    """Write what the stage collect leaves behind."""
    folder = config.stage("collect") / "ann"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03d}.png" for number in range(len(images))]
    for name, pixels in zip(names, images, strict=True):
        Image.fromarray(pixels).save(folder / name)
    np.save(folder / "face.npy", np.full(512, 512**-0.5, dtype=np.float32))
    Manifest(config.stage("collect")).write(Record("ann", facts={"images": names, "face": "face.npy"}))


def generated(config: DatasetConfig) -> Record:
    """Run the stage and return the person's record."""
    run_stage(GENERATE, config)
    record = Manifest(config.stage("generate")).read("ann")
    assert record is not None
    return record


def test_stage_writes_images_and_record(config: DatasetConfig) -> None:
    record = generated(config)
    assert record.status == "done", record.reason
    assert [entry["file"] for entry in record.facts["images"]] == [f"generate/ann/00{k}.png" for k in range(3)]
    assert record.facts["images"][1]["caption"] == "a portrait of a person, smiling, red shirt, white background"
    assert len(record.facts["references"]) == 2
    for entry in record.facts["images"]:
        image = Image.open(config.workspace / entry["file"])
        assert (image.size, image.mode) == ((128, 128), "RGB")


def test_leftovers_of_an_interrupted_run_are_replaced(config: DatasetConfig) -> None:
    folder = config.stage("generate") / "ann"
    folder.mkdir(parents=True)
    for name in ("000.png", "099.png", ".001.png.77.partial"):
        (folder / name).write_bytes(b"half a image")
    generated(config)
    assert sorted(path.name for path in folder.iterdir()) == ["000.png", "001.png", "002.png"]
    assert Image.open(folder / "000.png").size == (128, 128)


def test_run_with_another_batch_size_makes_the_same_images(config: DatasetConfig) -> None:
    generated(config)
    folder = config.stage("generate") / "ann"
    first = [np.asarray(Image.open(path)).astype(np.int16) for path in sorted(folder.iterdir())]
    Manifest(config.stage("generate")).write(Record("ann", "failed"))
    generated(replace(config, generate=replace(config.generate, batch=3)))
    for before, path in zip(first, sorted(folder.iterdir()), strict=True):
        # Other matrix shapes sum in another order: at most the last gray level differs
        assert np.abs(before - np.asarray(Image.open(path))).max() <= 2


def test_disabled_passes_collected_images_on(config: DatasetConfig) -> None:
    (config.stage("collect") / "ann" / "001.txt").write_text("a portrait of a person,\nred shirt\n", encoding="utf-8")
    off = replace(config.generate, enabled=False, file=Path("nowhere.bin"))
    record = generated(replace(config, generate=off, base=Path("nowhere")))
    captions = ["a portrait of a person", "a portrait of a person, red shirt", "a portrait of a person"]
    expected = [{"file": f"collect/ann/00{k}.png", "caption": caption} for k, caption in enumerate(captions)]
    assert list(record.facts["images"]) == expected


def test_person_without_a_face_fails_and_says_why(config: DatasetConfig) -> None:
    collect(config, [np.full((128, 128, 3), 200, dtype=np.uint8)])
    record = generated(config)
    assert record.status == "failed"
    assert "none of the 1 collected images shows a face" in record.reason


def test_prompt_without_the_class_word_stops_the_stage(config: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a {person}\na castle on a hill\n", encoding="utf-8")
    broken = replace(config, generate=replace(config.generate, prompts=tmp_path / "prompts.txt"))
    with pytest.raises(ValueError, match=r"prompts.txt.*'a castle on a hill'"):
        run_stage(GENERATE, broken)


def test_placement_beyond_the_tokens_stops_the_stage(config: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("very " * 74 + "old {person}\n", encoding="utf-8")
    broken = replace(config, generate=replace(config.generate, prompts=tmp_path / "prompts.txt"))
    with pytest.raises(ValueError, match="behind token 77 of the prompt 'very very"):
        run_stage(GENERATE, broken)
