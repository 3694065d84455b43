"""The miniature's recipes from drawn people to a checkpoint, by their command line; with teachers interrupted once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from difflora_core.model import DiffLoRA
from miniature.comfyui.host import find_tokenizer
from miniature.paths import ROOT, WEIGHTS
from miniature.personal.example_dataset import prepare_dataset
from tests.training.recipes.settings_text import replace_texts
from training.recipes.recipe import FOLDER
from training.recipes.step_records import RECORDS, read_records

SHORTER = {
    "1_dataset.yaml": {
        "steps: 80": "steps: 2",
        "warmup: 5": "warmup: 0",
        "people: 4": "people: 1",
        "images: 4": "images: 1",
        "steps: 16": "steps: 2",
    },
    "2_train_lae.yaml": {"steps: 600": "steps: 4", "warmup: 50": "warmup: 0", "batch: 4": "batch: 2"},
    "3_finetune_lae.yaml": {"steps: 100": "steps: 2", "warmup: 20": "warmup: 0", "people: 4": "people: 1"},
    "4_train_difflora.yaml": {"steps: 2500": "steps: 4", "warmup: 200": "warmup: 0", "batch: 4": "batch: 2"},
    "5_finetune_difflora.yaml": {
        "steps: 100": "steps: 2",
        "warmup: 20": "warmup: 0",
        "people: 4": "people: 1",
        "batch: 4": "batch: 2",
    },
    "6_evaluate.yaml": {"steps: 16": "steps: 2"},
}
TEACHER_FREE = {
    "2_train_teacher_free.yaml": {
        "steps: 200": "steps: 2",
        "warmup: 20": "warmup: 0",
        "people: 4": "people: 1",
        "name: miniature}": "layers: 1}",
    },
    "3_evaluate.yaml": {"steps: 16": "steps: 2"},
}
"""The recipes' settings, cut to a few steps."""
TEST_PERSON = "person_00002"
"""Who of the five people is kept from training and validation."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipes read: drawn people and the base model."""
    folder = tmp_path_factory.mktemp("photographs")
    prepare_dataset(folder, WEIGHTS, find_tokenizer(), people=5)
    return folder


def copy_recipe(name: str, folder: Path, photographs: Path, shorter: Mapping[str, Mapping[str, str]]) -> Path:
    """Copy a recipe into a folder like the project's, with few people and few steps."""
    copied = shutil.copytree(FOLDER / name, folder / "training" / "recipes" / name)
    replace_texts(copied, shorter)
    (folder / "miniature").mkdir()
    (folder / "miniature" / "build").symlink_to(photographs)
    (folder / "miniature" / "weights").symlink_to(WEIGHTS)
    return copied


def evaluated(output: Path) -> tuple[str, list[str], list[str]]:
    """The one person of the report, the methods, and the metrics, all of which were measured."""
    report = json.loads((output / "evaluation" / "report.json").read_text("utf-8"))
    (person,), metrics = report["people"], report["metrics"]
    assert report["people"][person] == {"references": 3, "others": 2}
    assert not report["failures"]
    for found in metrics.values():
        for column in found["columns"].values():
            assert column["methods"].keys() == report["methods"].keys()
    return person, list(report["methods"]), list(metrics)


def start(recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "training", "run", str(recipe)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_from_drawn_people_to_a_checkpoint(photographs: Path, tmp_path: Path) -> None:
    recipe, output = copy_recipe("miniature", tmp_path, photographs, SHORTER), tmp_path / "output" / "miniature"
    killed = start(recipe)
    while killed.poll() is None and not (output / "dataset" / "preprocess").exists():
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (output / RECORDS).exists()

    resumed = start(recipe)
    text, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, text[-3000:]
    assert len(read_records(output)) == 7
    model = DiffLoRA.load(output / "difflora_finetuned" / "difflora.safetensors")
    assert model.config.provenance["finetuning"]
    assert model.config.encoders.face == "miniature"
    methods = ["no LoRA", "mean LoRA", "teacher", "DiffLoRA"]
    assert evaluated(output) == (TEST_PERSON, methods, ["Face Sim", "face diversity"])
    (teacher,) = (output / "evaluation" / "teachers").rglob("*.safetensors")
    assert teacher.stem == TEST_PERSON


def test_without_teachers(photographs: Path, tmp_path: Path) -> None:
    process = start(copy_recipe("miniature-teacher-free", tmp_path, photographs, TEACHER_FREE))
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text[-3000:]
    output = tmp_path / "output" / "miniature-teacher-free"
    assert len(read_records(output)) == 4
    assert evaluated(output) == (TEST_PERSON, ["no LoRA", "DiffLoRA"], ["Face Sim", "face diversity"])
    assert not (output / "dataset" / "store").exists()
    model = DiffLoRA.load(output / "difflora" / "difflora.safetensors")
    assert model.config.provenance["joint_training"]["people"] == 1
