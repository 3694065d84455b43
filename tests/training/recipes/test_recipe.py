"""Recipes: their steps chain, and mistakes in a recipe are named."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.training.recipes.settings_text import replace_text
from training.recipes.recipe import FOLDER, SHIPPED, missing_inputs, named_recipes, read_recipe
from training.recipes.run import command_of
from training.recipes.step_inputs import changed_inputs, inputs_of


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a recipe to be changed."""
    return shutil.copytree(FOLDER / "sdxl-24gb", tmp_path / "mine")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_step_reads_what_an_earlier_one_writes_or_the_user_s_own(name):
    recipe = read_recipe(name)  # checks the chain
    written: list[Path] = []
    read: set[Path] = set()
    for step in recipe.steps:
        assert not [path for path in step.files.own.values() if path.is_relative_to(recipe.output)]
        results = {path for path in step.files.given.values() if path.is_relative_to(recipe.output)}
        assert results <= set(written), f"{step.name} is given what no earlier step writes"
        read |= results | set(step.files.reads.values())
        written += step.files.writes
    assert not (set(written) - read) - {written[-1]}, "something is written that no later step reads"
    assert [path.name for path in written[-2:]] == ["difflora.safetensors", "report.html"]


def test_recipes_are_found_by_folder_too(copied):
    assert read_recipe(str(copied)).title == read_recipe("sdxl-24gb").title


def test_a_step_that_reads_what_nobody_writes(copied):
    replace_text(copied / "3_finetune_lae.yaml", "lae/lae.safetensors", "other/lae.safetensors")
    with pytest.raises(ValueError, match=r"3_finetune_lae.yaml: network is .*other/lae.safetensors, which no earlier"):
        read_recipe(str(copied))


def test_a_dataset_file_that_is_not_there(copied):
    replace_text(copied / "5_finetune_difflora.yaml", "dataset: 1_dataset.yaml", "dataset: none.yaml")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_recipe(str(copied))


def test_no_recipe_of_the_name():
    with pytest.raises(FileNotFoundError, match=r"no recipe sdxl: .*, or one of miniature, .*sdxl-24gb,"):
        read_recipe("sdxl")


def test_an_unknown_command(copied):
    replace_text(copied / "recipe.yaml", "command: embed", "command: embellish")
    with pytest.raises(ValueError, match=re.escape(f"{copied / 'recipe.yaml'}: steps.4.command")):
        read_recipe(str(copied))


def test_what_the_user_has_to_bring_is_listed(copied, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    missing = missing_inputs(read_recipe(str(copied)).steps)
    assert [line.split(" (")[1] for line in missing] == [
        "1_dataset.yaml: base)",
        "1_dataset.yaml: faces)",
        "1_dataset.yaml: collect.path)",
        "1_dataset.yaml: generate.file)",
        "4_train_difflora.yaml: embeddings.image_encoder)",
        "6_evaluate.yaml: base)",
        "6_evaluate.yaml: methods.DiffLoRA.face_models)",
        "6_evaluate.yaml: methods.DiffLoRA.image_encoder)",
        "6_evaluate.yaml: metrics.faces)",
        "6_evaluate.yaml: metrics.clip.0)",
        "6_evaluate.yaml: metrics.dino)",
    ]
    assert any("hub/models--openai--clip-vit-base-patch32" in line for line in missing)


def test_files_of_the_stage_generate_are_the_user_s_own(copied):
    given = "  prompts: p.txt\n  negative: n.txt\n  lcm_lora: lcm.safetensors\n"
    replace_text(copied / "1_dataset.yaml", "generate:\n", f"generate:\n{given}")
    missing = missing_inputs(read_recipe(str(copied)).steps)
    for name, file in (("prompts", "p.txt"), ("negative", "n.txt"), ("lcm_lora", "lcm.safetensors")):
        assert f"{copied / file} (1_dataset.yaml: generate.{name})" in missing


def test_a_dataset_that_keeps_nobody_for_the_evaluation(copied):
    dataset = copied / "1_dataset.yaml"
    dataset.write_text(dataset.read_text("utf-8") + "pack: {test: 0.0}\n", "utf-8")
    with pytest.raises(ValueError, match=r"6_evaluate.yaml: the split 'test' is evaluated, but pack.test of .* is 0"):
        read_recipe(str(copied))


def test_what_an_evaluation_is_given_is_a_result_or_the_user_s_own(copied):
    theirs = "  theirs: {kind: difflora, path: theirs.safetensors}\n  loras: {kind: lora, path: loras}\n"
    replace_text(copied / "6_evaluate.yaml", "  DiffLoRA:\n", f"{theirs}  DiffLoRA:\n")
    replace_text(copied / "6_evaluate.yaml", "dataset: 1_dataset.yaml ", "people: people ")
    missing = [line.split(" (")[1] for line in missing_inputs(read_recipe(str(copied)).steps)]
    assert {"6_evaluate.yaml: people)", "6_evaluate.yaml: methods.theirs.path)"} <= set(missing)
    assert "6_evaluate.yaml: methods.loras.path)" in missing
    assert not {line for line in missing if "teacher" in line or "mean LoRA" in line or "DiffLoRA.path" in line}
    replace_text(copied / "6_evaluate.yaml", "difflora_finetuned/", "difflora_tuned/")
    assert any("DiffLoRA.path" in line for line in missing_inputs(read_recipe(str(copied)).steps))


def test_teachers_beside_joint_training_are_the_user_s_own(tmp_path):
    folder = shutil.copytree(FOLDER / "sdxl-24gb-teacher-free", tmp_path / "mine")
    replace_text(folder / "2_train_teacher_free.yaml", "  people: 8 ", "  teachers: 2\n  people: 8 ")
    replace_text(folder / "2_train_teacher_free.yaml", "\ndit:", "\nstores: [store]\ndit:")
    recipe = read_recipe(str(folder))
    missing = f"{folder / 'store'} (2_train_teacher_free.yaml: stores[0])"
    assert missing in missing_inputs(recipe.steps)
    (folder / "store" / "train").mkdir(parents=True)
    assert missing not in missing_inputs(recipe.steps)
    step = next(step for step in recipe.steps if step.command == "train-teacher-free")
    before = inputs_of(step)
    (file := folder / "store" / "train" / "anna.safetensors").write_bytes(b"more")
    assert changed_inputs(step, before) == ["stores[0]"]
    before = inputs_of(step)
    os.utime(file, (1, 1))
    assert changed_inputs(step, before) == [], "a copy without its times is as current as the original"
    file.write_bytes(b"less")
    assert changed_inputs(step, before) == ["stores[0]"]


def test_trainers_are_launched_on_all_gpus():
    recipe = read_recipe("sdxl-4x24gb")
    commands = [" ".join(command_of(step, recipe.gpus)[1:]) for step in recipe.steps]
    launched = [command for command in commands if "--num_processes 4" in command]
    assert [command.split(" training ")[1].split()[0] for command in launched] == [
        "train-lae",
        "finetune",
        "train-difflora",
        "finetune",
    ]
    assert commands[0] == f"-m training pilot {FOLDER / 'sdxl-4x24gb'}"
    assert commands[1].startswith("-m training dataset all --config")


def test_all_that_come_with_the_project_are_known_as_such():
    assert set(SHIPPED) <= set(named_recipes())  # copies beside them are the user's


def test_a_pilot_is_the_first_step(copied):
    replace_text(copied / "recipe.yaml", "  - {command: pilot, settings: 0_pilot.yaml}\n", "")
    replace_text(
        copied / "recipe.yaml",
        "  - {command: train-lae",
        "  - {command: pilot, settings: 0_pilot.yaml}\n  - {command: train-lae",
    )
    with pytest.raises(ValueError, match="the pilot has to be the first step"):
        read_recipe(str(copied))


def test_a_pilot_of_another_recipe(copied):
    other = FOLDER / "sdxl-80gb" / "0_pilot.yaml"
    replace_text(copied / "recipe.yaml", "settings: 0_pilot.yaml", f"settings: {other}")
    with pytest.raises(ValueError, match=r"sdxl-80gb.0_pilot\.yaml has to be in the recipe's own folder"):
        read_recipe(str(copied))
