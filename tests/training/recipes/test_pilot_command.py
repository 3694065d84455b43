"""`python -m training pilot`: into which settings the choice is written, and what is said before."""

import argparse
import shutil
from pathlib import Path

import pytest

from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest, Record
from training.pilot.choice import Choice
from training.pilot.grid import TeacherSetting
from training.recipes import pilot_command, recipe
from training.recipes.recipe import FOLDER
from training.recipes.run import check_unchanged
from training.recipes.step_records import read_records

SETTING = TeacherSetting(3e-4, 200, True, 8)


@pytest.fixture
def found(monkeypatch):
    """Grids for which a setting was looked for; all of them find `SETTING`."""
    grids = []

    def find(title, config, grid, *_):
        grids.append(grid)
        return Choice(SETTING, SETTING, ())

    monkeypatch.setattr(pilot_command, "find_settings", find)
    monkeypatch.setattr(pilot_command, "missing_inputs", lambda steps: [])
    return grids


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER / "sdxl-24gb", tmp_path / "a" / "b" / "mine")


def run(*words: str) -> None:
    parser = argparse.ArgumentParser()
    pilot_command.add_arguments(parser)
    arguments = parser.parse_args(words)
    arguments.run(arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.yaml")}


def test_a_copy_of_a_recipe_is_written(copied, found, capsys):
    run(str(copied), "--learning-rates", "1e-4,3e-4", "--steps", "100,200", "--feed-forward", "no", "--ranks", "4")
    assert len(found[0]) == 4
    assert TeacherSetting.of(load_config(copied / "1_dataset.yaml").dreambooth) == SETTING
    assert "layout: {rank: 8, feed_forward: true}" in (copied / "2_train_lae.yaml").read_text("utf-8")
    recipe.read_recipe(str(copied))
    before, after = capsys.readouterr().out.split("\n", 1)
    assert "will be written into" in before
    assert "1_dataset.yaml: learning_rate 0.001 -> 0.0003, steps 400 -> 200" in after
    run(str(copied))
    assert "the recipe has these settings already" in capsys.readouterr().out


def test_the_recipe_s_own_grid_and_options_in_place_of_it(copied, found):
    run(str(copied))
    assert {setting.learning_rate for setting in found[0]} == {1e-4, 3e-4, 1e-3}
    assert {(setting.feed_forward, setting.rank) for setting in found[0]} == {(False, 4)}
    run(str(copied), "--learning-rates", "2e-4", "--feed-forward", "both")
    assert {(setting.learning_rate, setting.feed_forward) for setting in found[1]} == {(2e-4, False), (2e-4, True)}
    assert {setting.steps for setting in found[1]} == {100, 200, 400}


def test_a_recipe_without_a_pilot(copied, found):
    path = copied / "recipe.yaml"
    path.write_text(path.read_text("utf-8").replace("  - {command: pilot, settings: 0_pilot.yaml}\n", ""), "utf-8")
    run(str(copied))
    assert len(found[0]) == 3 * 3 * 2 * 2
    assert not read_records(recipe.read_recipe(str(copied)).output)


def test_the_step_is_noted_with_its_choice(copied, found):
    run(str(copied), "--keep-settings")
    own = recipe.read_recipe(str(copied))
    assert not read_records(own.output)
    run(str(copied))
    check_unchanged(own.steps[0], read_records(own.output)["0_pilot (pilot)"])


def test_a_pilot_of_another_dataset(copied, found):
    path = copied / "0_pilot.yaml"
    (copied / "other.yaml").write_bytes((copied / "1_dataset.yaml").read_bytes())
    path.write_text(path.read_text("utf-8").replace("dataset: 1_dataset.yaml", "dataset: other.yaml"), "utf-8")
    with pytest.raises(ValueError, match=r"0_pilot\.yaml: dataset is .*other\.yaml, but the recipe's teachers are of"):
        run(str(copied))


def test_settings_are_kept_if_asked(copied, found, capsys):
    before = contents(copied)
    run(str(copied), "--keep-settings")
    assert contents(copied) == before
    assert "is only printed: --keep-settings" in capsys.readouterr().out


def test_what_comes_with_the_project_is_written_only_on_demand(copied, found, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "FOLDER", copied.parent)
    monkeypatch.setattr(recipe, "SHIPPED", (copied.name,))
    before = contents(copied)
    run(str(copied))
    assert contents(copied) == before
    assert capsys.readouterr().out.count("copy the recipe first, or give --write") == 2
    run(str(copied), "--write")
    assert load_config(copied / "1_dataset.yaml").dreambooth.rank == SETTING.rank


def test_settings_by_which_teachers_were_trained_are_written_only_on_demand(copied, found, capsys):
    config, before = load_config(copied / "1_dataset.yaml"), contents(copied)
    Manifest(config.stage("dreambooth")).write(Record("anna", facts={"people": ["anna"]}))
    run(str(copied))
    assert contents(copied) == before
    assert "1 groups of teachers have been trained" in capsys.readouterr().out


def test_settings_that_may_not_be_written_are_told_before_the_training(copied, found, monkeypatch):
    monkeypatch.setattr(pilot_command.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"1_dataset\.yaml may not be written"):
        run(str(copied))
    assert not found


def test_mistakes(copied, found, capsys, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no recipe nobody"):
        run("nobody")
    with pytest.raises(ValueError, match="people: found 0, expected"):
        run(str(copied), "--people", "0")
    with pytest.raises(ValueError, match="within the warm-up"):
        run(str(copied), "--steps", "5")
    for words in (["--learning-rates", ""], ["--steps", "1.5"], ["--write", "--keep-settings"]):
        with pytest.raises(SystemExit):
            run(str(copied), *words)
    assert "expected numbers separated by commas" in capsys.readouterr().err
    monkeypatch.setattr(pilot_command, "missing_inputs", recipe.missing_inputs)
    with pytest.raises(FileNotFoundError, match="the pilot needs what is not there"):
        run(str(copied))
    assert not found
