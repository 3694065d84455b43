"""The recipe `miniature` from drawn people to a checkpoint, by its command line, interrupted once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from difflora_core.model import DiffLoRA
from miniature.comfyui.host import find_tokenizer
from miniature.paths import ROOT, WEIGHTS
from miniature.personal.example_dataset import prepare_dataset
from training.recipes.recipe import FOLDER
from training.recipes.step_records import RECORDS, read_records

SHORTER = {
    "1_dataset.yaml": {
        "steps: 80": "steps: 2",
        "people: 4": "people: 1",
        "images: 4": "images: 1",
        "steps: 16": "steps: 2",
    },
    "2_train_lae.yaml": {"steps: 600": "steps: 4", "batch: 4": "batch: 2"},
    "3_finetune_lae.yaml": {"steps: 100": "steps: 2", "people: 4": "people: 1"},
    "4_train_difflora.yaml": {"steps: 2500": "steps: 4", "batch: 4": "batch: 2"},
    "5_finetune_difflora.yaml": {"steps: 100": "steps: 2", "people: 4": "people: 1", "batch: 4": "batch: 2"},
}
"""The recipe's settings, cut to a few steps."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe in a folder like the project's, with few people and few steps."""
    copied = shutil.copytree(FOLDER / "miniature", tmp_path / "training" / "recipes" / "miniature")
    for name, changes in SHORTER.items():
        text = (copied / name).read_text("utf-8")
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (copied / name).write_text(text, "utf-8")
    prepare_dataset(tmp_path / "miniature" / "build", WEIGHTS, find_tokenizer(), people=5)
    (tmp_path / "miniature" / "weights").symlink_to(WEIGHTS)
    return copied


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


def test_from_drawn_people_to_a_checkpoint(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "output" / "miniature"
    killed = start(recipe)
    while killed.poll() is None and not (output / "dataset" / "preprocess").exists():
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (output / RECORDS).exists()

    resumed = start(recipe)
    text, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, text[-3000:]
    assert len(read_records(output)) == 6
    model = DiffLoRA.load(output / "difflora_finetuned" / "difflora.safetensors")
    assert model.config.provenance["finetuning"]
    assert model.config.encoders.face == "miniature"
