"""`python -m training run`: which steps it runs, what it notes, and what it says."""

import json
import shutil

import pytest
import torch

from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.engine.folder_lock import FolderInUseError, folder_lock
from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.pack_plan import split_of
from training.recipes import recipe as recipes
from training.recipes import run, step_records
from training.recipes.held_out_people import check_held_out_people
from training.recipes.planning.time_left import TimeLeft
from training.recipes.recipe import FOLDER, dataset_step, read_recipe
from training.recipes.step_inputs import inputs_of
from training.store.lora_store import LoRAStore

from .step_commands import AGAIN, ALL, left


def test_all_steps_run_in_order_and_are_noted(recipe, commands, capsys):
    run.run_recipe(recipe, left)
    assert commands.ran == ALL
    assert len(step_records.read_records(recipe.output)) == len(ALL)
    assert capsys.readouterr().out.count("done, 0:00:0") == 1 + 2 + 3 + 4 + 5 + 6 + 7 + len(ALL)


def test_a_second_run_only_looks_whether_dataset_and_evaluation_are_current(recipe, commands):
    run.run_recipe(recipe, left)
    run.run_recipe(recipe, left)
    assert commands.ran == [*ALL, *AGAIN]


def test_a_step_that_is_looked_through_again_is_not_said_to_be_left(recipe, commands, capsys):
    run.run_recipe(recipe, left)
    capsys.readouterr()
    run.run_recipe(recipe, left)
    assert capsys.readouterr().out.count("runs now, for what has changed since") == len(AGAIN)


def test_nobody_to_evaluate_is_said_before_anything_is_trained(recipe, commands):
    commands.people = [name for name in map(str, range(10)) if name not in commands.people]
    with pytest.raises(
        ValueError, match=r"none of \d+ people with prepared images .* in the split 'test': pack.test is 0.*recipe.yaml"
    ):
        run.run_recipe(recipe, left)
    assert commands.ran == ALL[:2]


def test_whoever_is_held_out_in_one_step_is_not_trained_on_in_another(recipe, commands):
    """A second store, which only the LAE is trained on, keeps somebody from training whom the dataset trains on."""
    settings = next(step.settings for step in recipe.steps if step.command == "train-lae")
    (folder,) = dataset_step(recipe).files.imports
    store = LoRAStore(folder, LoRALayout((LoRAModule("a", 4, 4),), 1))
    commands.people += (trained := [name for name in map(str, range(100)) if split_of(name, 0.03, 0.03) == "train"][:2])
    store.add("train", trained[:1], torch.ones(1, store.layout.numel))
    settings.write_text(settings.read_text("utf-8").replace("stores: [", f"stores: [{folder}, "), "utf-8")
    recipe = read_recipe(str(settings.parent))
    check_held_out_people(recipe.steps)
    store.add("validation", trained[1:], torch.ones(1, store.layout.numel))
    message = rf"{trained[1]} is in the split train of the dataset in .*, and in the split validation of {store.folder}"
    with pytest.raises(ValueError, match=message):
        run.run_recipe(recipe, left)
    assert commands.ran == ALL[:2]


def test_a_pilot_s_choice_is_no_change_of_its_inputs(recipe, commands):
    run.run_recipe(recipe, left)
    dataset = dataset_step(recipe).settings
    assert load_config(dataset).dreambooth.steps == 200, "the pilot has written its choice"
    run.run_recipe(recipe, left)
    assert commands.ran == [*ALL, *AGAIN]
    dataset.write_text(dataset.read_text("utf-8").replace("size: 768", "size: 512"), "utf-8")
    with pytest.raises(ValueError, match=r"0_pilot \(pilot\) was done on .* changed: dataset\. Run .* --write"):
        run.run_recipe(recipe, left)


def test_a_pilot_that_wrote_nothing_ends_the_run(recipe, commands):
    commands.failing = "pilot"
    with pytest.raises(RuntimeError, match="has written no settings"):
        run.run_recipe(recipe, left)
    assert commands.ran == ["pilot"]


def test_a_pilot_is_left_out_where_there_are_teachers(recipe, commands):
    dataset = dataset_step(recipe)
    step_records.note_done(recipe, dataset, inputs_of(dataset), 5.0, imported=True)
    for folder in dataset.files.writes:
        folder.mkdir(parents=True, exist_ok=True)
    commands.prepare_images(dataset.settings)
    text = run.describe(
        recipe, step_records.read_records(recipe.output), TimeLeft({"0_pilot (pilot)": 60.0}, "a card", 100)
    )
    assert "0_pilot (pilot)                  left out: there are teachers already" in text
    assert text.endswith("no further step is left")
    run.run_recipe(recipe, left)
    assert commands.ran == ALL[2:]


def test_a_pilot_is_left_out_after_the_first_teachers(recipe, commands):
    Manifest(load_config(dataset_step(recipe).settings).stage("dreambooth")).write(Record("anna"))
    run.run_recipe(recipe, left)
    assert commands.ran == ALL[1:]


def test_a_recipe_of_the_project_is_copied_before_its_pilot(recipe, commands, monkeypatch):
    monkeypatch.setattr(recipes, "FOLDER", recipe.steps[0].settings.parents[1])
    monkeypatch.setattr(recipes, "SHIPPED", ("mine",))
    with pytest.raises(ValueError, match=r"Copy that folder .*my-recipe, .* pilot mine --write"):
        run.run_recipe(recipe, left)
    assert commands.ran == []
    assert commands.pilot(recipe.steps[0].settings.parent) == 0  # as --write does
    run.run_recipe(recipe, left)
    assert commands.ran == ALL


def test_a_failed_step_is_named_and_the_next_run_begins_with_it(recipe, commands):
    commands.failing = "embed"
    with pytest.raises(RuntimeError, match=r"4_train_difflora \(embed\) failed with exit code 1.* -m training embed "):
        run.run_recipe(recipe, left)
    commands.failing = ""
    run.run_recipe(recipe, left)
    assert commands.ran == [*ALL[:5], "dataset all", *ALL[4:]]


def test_changed_settings_of_a_step_that_is_done(recipe, commands):
    run.run_recipe(recipe, left)
    changed = recipe.steps[2].settings
    changed.write_text(changed.read_text("utf-8").replace("steps: 20000", "steps: 2000"), "utf-8")
    with pytest.raises(
        ValueError, match=r"2_train_lae \(train-lae\) was done on .* changed: settings\. Delete .*--keep"
    ):
        run.run_recipe(recipe, left)
    run.run_recipe(recipe, left, keep=True)
    assert commands.ran == [*ALL, "dataset all", *AGAIN]


def test_comments_are_no_settings(recipe, commands):
    run.run_recipe(recipe, left)
    for step in recipe.steps:
        step.settings.write_text(f"# mine\n{step.settings.read_text('utf-8')}", "utf-8")
    run.run_recipe(recipe, left)
    assert commands.ran == [*ALL, *AGAIN]


def test_a_changed_input_of_a_step_that_is_done(recipe, commands):
    run.run_recipe(recipe, left)
    (recipe.steps[2].files.writes[0]).write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"3_finetune_lae \(finetune\) was done on .* changed: network\."):
        run.run_recipe(recipe, left)


def test_a_result_that_is_gone_is_named(recipe, commands):
    """Not the next step, whose input has changed by that, and which the evaluation would have noticed at the end."""
    run.run_recipe(recipe, left)
    (recipe.steps[2].files.writes[0]).unlink()
    message = (
        r"2_train_lae \(train-lae\) was done on .*, but .*lae\.safetensors is not there any more\. Put it back, or"
    )
    with pytest.raises(ValueError, match=message):
        run.run_recipe(recipe, left)
    run.run_recipe(recipe, left, keep=True)
    assert commands.ran == [*ALL, "dataset all", *AGAIN]


def test_a_tracker_that_is_missing_is_named_before_anything_runs(recipe, commands):
    settings = recipe.steps[-2].settings
    settings.write_text(
        settings.read_text("utf-8").replace("log_with: [tensorboard]", "log_with: [tensorbord]"), "utf-8"
    )
    with pytest.raises(ValueError, match=r"5_finetune_difflora.yaml: log_with names tensorbord, which is unknown or"):
        run.run_recipe(read_recipe(str(recipe.folder)), left)
    assert commands.ran == []


def test_everything_missing_is_named_before_anything_runs(recipe, commands):
    shutil.rmtree(recipe.steps[1].files.own["base"])
    shutil.rmtree(recipe.steps[4].files.own["embeddings.image_encoder"])
    with pytest.raises(FileNotFoundError, match=r"sdxl-base-1.0 \(1_dataset.yaml: base\); .*clip-vit-large-patch14"):
        run.run_recipe(recipe, left)
    assert commands.ran == []


def test_one_run_at_a_time(recipe, commands):
    with folder_lock(recipe.output), pytest.raises(FolderInUseError):
        run.run_recipe(recipe, left)


def test_a_damaged_record_is_named(recipe, commands):
    run.run_recipe(recipe, left)
    (recipe.output / step_records.RECORDS).write_text(json.dumps({"1_dataset (dataset all)": 3}), "utf-8")
    with pytest.raises(ValueError, match=r"steps.json is damaged"):
        run.run_recipe(recipe, left)


def test_status_runs_nothing(recipe, commands):
    text = run.describe(recipe, {}, left())
    assert text.splitlines()[0] == recipe.title
    assert [line.split()[-1] for line in text.splitlines()[1:-1]] == ["left"] * len(ALL)
    assert commands.ran == []


def test_the_time_that_is_left_is_corrected_by_the_steps_that_are_done():
    left = TimeLeft({"a": 100.0, "b": 50.0, "c": None, "d": 30.0}, "some card", 3000)
    basis = "for 3,000 people by the figures of some card"
    unknown = "; without 1 of the 4 steps, of which there are no figures"
    assert left.describe({}) == f"left: about 0:03:00 {basis}{unknown}"
    done = ", times 2 (taken over planned time of the steps that are done)"
    assert left.describe({"a": 200.0, "c": 7.0}) == f"left: about 0:02:40 {basis}{done}"
    assert left.describe(dict.fromkeys("abcd", 1.0)) == "no further step is left"


def test_a_plan_of_every_step_is_the_start(recipe):
    planned = TimeLeft.of(recipe, 100, None).planned
    assert TimeLeft.of(recipe, None, None).people == 3000, "before anybody is collected"
    assert list(planned) == [step.name for step in recipe.steps]
    assert all(planned.values())


def test_a_base_model_without_figures_is_no_reason_not_to_run(tmp_path):
    """The miniature on a GPU: the figures of GPUs are SDXL's."""
    folder = shutil.copytree(FOLDER / "miniature", tmp_path / "a" / "b" / "mine")
    text = (folder / "recipe.yaml").read_text("utf-8")
    (folder / "recipe.yaml").write_text(text.replace("gpus: 0", "gpus: 1"), "utf-8")
    recipe = read_recipe(str(folder))
    assert TimeLeft.of(recipe, 100, None).describe({}).startswith("left: 7 steps; there are no figures of this base")
    with pytest.raises(ValueError, match=r"measured with SDXL, the base model of .* is another"):
        TimeLeft.of(recipe, 100, "h100")
