"""`python -m benchmarks.rehearsal` with the miniature's sizes, and what it makes of the recipes for SDXL.

It covers every step of a recipe in order, with PhotoMaker's generation, `difflora personalize`, the LoRA in diffusers
and in a real ComfyUI, all on models with random weights.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    ViTConfig,
    ViTModel,
)

from benchmarks.rehearsal.__main__ import Rehearsal
from benchmarks.rehearsal.child import TASKS, Report
from benchmarks.rehearsal.cut_settings import TEST, VALIDATION, change_settings, number_of_people
from benchmarks.rehearsal.inputs import SIZES, write_single_file
from difflora_core.files import read_shapes
from miniature.paths import ROOT
from tests.training.recipes.settings_text import replace_texts
from training.engine.settings import read_settings
from training.evaluation.prompt_list import read_prompt_list
from training.evaluation.settings import EvaluationSettings
from training.lora_dataset.config import load_config
from training.lora_dataset.stages.pack_plan import split_of
from training.recipes.recipe import FOLDER, SHIPPED, dataset_step, read_recipe

CHANGES = {
    "1_dataset.yaml": {"  images_per_person: 4": "  images_per_person: 1", "  images: 4": "  images: 1"},
    "6_evaluate.yaml": {
        "metrics:\n": "metrics:\n  clip: [openai/clip-vit-base-patch32]\n  dino: facebook/dino-vits16\n"
    },
}
"""In the miniature's settings: less time, and all metrics of the recipes for SDXL."""


def test_from_random_weights_to_an_image_in_comfyui(tmp_path: Path) -> None:
    recipe = shutil.copytree(FOLDER / "miniature", tmp_path / "recipe")
    replace_texts(recipe, CHANGES)
    words = [sys.executable, "-m", "benchmarks.rehearsal", "--size", "miniature", "--recipe", str(recipe)]
    words += ["--one-process", "--folder", str(tmp_path / "work"), "--json", str(tmp_path / "rows.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text("utf-8"))}
    assert list(rows)[1:3] == ["dataset collect", "dataset generate"]
    assert list(rows)[-2:] == ["ComfyUI without the LoRA, first use", "ComfyUI with the LoRA"]
    assert {step.name for step in read_recipe("miniature").steps[1:]} <= rows.keys()
    assert all(row["seconds"] > 0 and row["host_gib"] > 0.1 for row in rows.values())
    assert "difflora personalize" in done.stdout
    report = tmp_path / "work" / "output" / "miniature" / "evaluation" / "report.json"
    found = json.loads(report.read_text("utf-8"))
    assert not found["failures"]
    assert list(found["methods"]) == ["no LoRA", "mean LoRA", "teacher", "DiffLoRA"]
    assert list(found["metrics"]) == ["Face Sim", "face diversity", "CLIP clip-vit-base-patch32", "DINO dino-vits16"]


def test_what_a_failing_task_took_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(report: Report) -> None:
        with report.row("first stage"):
            pass
        with report.row("second stage"):
            raise RuntimeError("no")

    monkeypatch.setitem(TASKS, "fail", fail)
    rehearsal = Rehearsal(tmp_path, "miniature", one_process=True)
    with pytest.raises(RuntimeError, match="no"):
        rehearsal.task("fail")
    assert [row.name for row in rehearsal.rows] == ["first stage", "second stage"]


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("sdxl")])
def test_batches_and_image_sizes_of_a_recipe_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    recipe = read_recipe(str(shutil.copytree(FOLDER / name, tmp_path / "a" / "b" / name)))
    before = load_config(dataset_step(recipe).settings)
    people = number_of_people(recipe, SIZES["sdxl"].min_people)
    for settings in {step.settings for step in recipe.steps}:
        change_settings(settings, tmp_path / "photographs")
    changed = read_recipe(str(recipe.steps[0].settings.parent))
    after = load_config(dataset_step(changed).settings)
    assert after.generate.enabled
    assert (after.generate.size, after.generate.batch) == (before.generate.size, before.generate.batch)
    assert (after.preprocess.size, after.preprocess.batch) == (before.preprocess.size, before.preprocess.batch)
    assert after.dreambooth.people == before.dreambooth.people <= people
    splits = [split_of(f"person_{number:05d}", VALIDATION, TEST) for number in range(people)]
    assert splits.count("train") >= (6 if "teacher-free" in name else 16)
    assert {"validation", "test"} <= set(splits)
    evaluation = read_settings(EvaluationSettings, changed.steps[-1].settings)
    assert (evaluation.size, evaluation.batch, evaluation.max_people) == (1024, 8 if "80gb" in name else 4, 1)
    assert len(read_prompt_list(evaluation.prompts)) == 2
    assert {Path(model).parent for model in evaluation.metrics.clip} == {tmp_path / "metrics"}


def test_the_sizes_are_those_of_sdxl() -> None:
    size = SIZES["sdxl"]
    with torch.device("meta"):
        networks = [UNet2DConditionModel(**size.unet), AutoencoderKL(**size.vae)]
        networks += [CLIPModel(CLIPConfig(**size.clip)), ViTModel(ViTConfig(**size.dino), add_pooling_layer=False)]
    counts = [sum(weights.numel() for weights in network.parameters()) for network in networks]
    assert counts == [2_567_463_684, 83_653_863, 151_277_313, 21_665_664]


def test_a_single_file_has_the_names_that_comfyui_reads(tmp_path: Path) -> None:
    size = SIZES["miniature"]
    write_single_file(
        tmp_path / "file.safetensors",
        UNet2DConditionModel(**size.unet),
        CLIPTextModel(CLIPTextConfig(**size.text_encoder)),
        CLIPTextModelWithProjection(CLIPTextConfig(**size.text_encoder_2)),
        AutoencoderKL(**{**SIZES["sdxl"].vae, "block_out_channels": (32, 32, 32, 32)}),
    )
    names = read_shapes(tmp_path / "file.safetensors")[0]
    assert {
        "model.diffusion_model.input_blocks.0.0.weight",
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "first_stage_model.decoder.up_blocks.0.resnets.0.norm1.weight",  # diffusers', which ComfyUI converts
    } <= names.keys()
