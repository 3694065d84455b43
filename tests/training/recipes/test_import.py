"""`python -m training import` as docs/training.md shows it: LoRAs that exist already take the first step's place."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from difflora_core.autoencoder.lae_file import load_lae
from difflora_core.lora.file_formats import save_lora
from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_tokenizer
from miniature.paths import ROOT, WEIGHTS
from miniature.personal.example_dataset import draw_person_folders
from miniature.world.scenes import TEACHER_SCENES
from tests.training.recipes.settings_text import replace_texts
from training.lora_dataset.config import CollectConfig, DatasetConfig, load_config
from training.lora_dataset.manifest import Manifest, Record
from training.recipes import teachers
from training.recipes.recipe import FOLDER, dataset_step, read_recipe
from training.recipes.run import check_unchanged
from training.recipes.step_inputs import inputs_of
from training.recipes.step_records import note_done, read_records
from training.recipes.teachers import people_with_images
from training.store.lora_store import LoRAStore

CHANGES = {
    "recipe.yaml": {
        "  - {command: finetune, settings: 3_finetune_lae.yaml}\n": "",
        "  - {command: embed, settings: 4_train_difflora.yaml}\n": "",
        "  - {command: train-difflora, settings: 4_train_difflora.yaml}\n": "",
        "  - {command: finetune, settings: 5_finetune_difflora.yaml}\n": "",
        "  - {command: evaluate, settings: 6_evaluate.yaml}\n": "",
    },
    "1_dataset.yaml": {
        "min_sharpness: 90.0": "min_sharpness: 0.0\n  min_images: 4",
        "people: 4": "people: 1",
        "  images: 4": "  images: 1",
        "steps: 16": "steps: 2",
    },
    "2_train_lae.yaml": {
        "dataset/store]": "dataset/store, ../output/miniature/dataset/without_images/store]",
        "steps: 600": "steps: 2",
        "warmup: 50": "warmup: 0",
        "batch: 4": "batch: 2",
    },
}
"""The recipe `miniature`, cut to the LAE in a few steps, which reads both stores."""
WITH_BOTH, WITHOUT_IMAGES, IMAGES = 3, 3, 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with my-recipe/, images of four people, LoRAs of three of them and of one other, and more LoRAs."""
    recipe = shutil.copytree(FOLDER / "miniature", tmp_path / "my-recipe")
    for path in recipe.glob("*.yaml"):
        path.write_text(path.read_text("utf-8").replace("../../../", "../"), "utf-8")
    replace_texts(recipe, CHANGES)
    build = tmp_path / "miniature" / "build"
    draw_person_folders(build / "photographs", range(WITH_BOTH + 1), TEACHER_SCENES[:IMAGES])
    export_diffusers(WEIGHTS, build / "diffusers", find_tokenizer())
    (tmp_path / "miniature" / "weights").symlink_to(WEIGHTS)
    layout, generator = LoRALayout.from_config(base_config.UNET, 4, feed_forward=True), torch.Generator().manual_seed(0)
    names = [f"loras/person_{number:05d}" for number in range(WITH_BOTH)] + ["loras/nobody"]
    names += [f"more-loras/stranger_{number}" for number in range(WITHOUT_IMAGES)]
    for name in names:
        lora = 0.02 * torch.randn(layout.numel, generator=generator)
        save_lora(tmp_path / f"{name}.safetensors", lora, layout)
    return tmp_path


def documented(*words: str) -> list[str]:
    """The one command line of docs/training.md with these words."""
    lines = (ROOT / "docs" / "training.md").read_text("utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("python -m ") and all(word in line for word in words))
    return [sys.executable, *shlex.split(line, comments=True)[1:]]


def command(folder: Path, *words: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(documented(*words), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_from_loras_to_an_autoencoder(folder: Path) -> None:
    text = command(folder, "training import my-recipe/", "--without-images")
    assert "add " not in text, "the settings name the store already"
    text = command(folder, "training import my-recipe/", "--from loras/")
    assert "left out: 1 LoRAs of people without usable images: nobody" in text
    assert "1 people have images and no LoRA, and serve end-to-end fine-tuning: person_00003" in text
    recipe = read_recipe(str(folder / "my-recipe"))
    config = load_config(recipe.steps[0].settings)
    assert not config.stage("dreambooth").exists()
    store, other = (LoRAStore.open(path) for path in (config.stage("store"), config.stage("without_images") / "store"))
    assert len(list(store.entries())) == WITH_BOTH
    assert len(list(other.entries())) == WITHOUT_IMAGES
    (record,) = read_records(recipe.output).values()
    assert record.imported

    text = command(folder, "training run my-recipe/")
    assert "1_dataset (dataset all)          imported, 0:" in text
    assert not config.stage("dreambooth").exists()
    assert load_lae(recipe.output / "lae" / "lae.safetensors").layout.rank == 4
    for stage in ("filter", "preprocess"):  # what embed and end-to-end fine-tuning read
        assert len(Manifest(config.stage(stage)).done()) == WITH_BOTH + 1


def test_no_lora_of_anybody_with_images(tmp_path: Path) -> None:
    config = DatasetConfig(tmp_path / "work", tmp_path / "base", collect=CollectConfig(path="faces"))
    Manifest(config.stage("preprocess")).write(Record("anna"))
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "Anna by me.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"none of 1 LoRAs .* usable images in faces: found LoRAs of anna-by-me-.*anna/"
    ):
        people_with_images(tmp_path / "loras", config)


def test_a_changed_dataset_after_an_import(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    recipe = read_recipe(str(shutil.copytree(FOLDER / "sdxl-24gb", tmp_path / "a" / "b" / "mine")))
    step = dataset_step(recipe)
    for folder in step.files.writes:
        folder.mkdir(parents=True)
    note_done(recipe, step, inputs_of(step), 3.0, imported=True)
    check_unchanged(step, read_records(recipe.output)[step.name])
    step.settings.write_text(step.settings.read_text("utf-8").replace("size: 768", "size: 512"), "utf-8")
    with pytest.raises(ValueError, match=r"imported for step 1_dataset .* Run `python -m training import` again"):
        check_unchanged(step, read_records(recipe.output)[step.name])


def test_after_a_failure_it_is_said_what_run_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    folder = shutil.copytree(FOLDER / "sdxl-24gb", tmp_path / "a" / "b" / "mine")
    monkeypatch.setattr(teachers, "missing_inputs", lambda steps: [])
    monkeypatch.setattr(teachers, "run_stages", lambda names, config, arguments: dict.fromkeys(names, 0))
    monkeypatch.setattr(teachers, "people_with_images", lambda folder, config: frozenset({"anna"}))
    monkeypatch.setattr(teachers, "import_files", lambda arguments, config, people: {"import": 1, "pack": 0})
    parser = argparse.ArgumentParser()
    teachers.add_arguments(parser)
    arguments = parser.parse_args([str(folder), "--from", "loras"])
    with pytest.raises(RuntimeError, match=r"\(1 in import\).* `run` would train LoRAs .* take them out of loras"):
        arguments.run(arguments)
    assert read_records(read_recipe(str(folder)).output) == {}
