"""A whole pilot on a base model of two layers: it finds a setting, and goes on where it was."""

import json
from dataclasses import replace

import pytest
import torch

from tests.training.pilot.tiny_pilot import COLORS, DREAMBOOTH, ColorFaces, TinyBase, prepared_dataset
from training.lora_dataset.config import CollectConfig
from training.lora_dataset.stages import train_loras as stage
from training.pilot import find_settings as whole
from training.pilot.find_settings import find_settings
from training.pilot.grid import make_grid
from training.pilot.pilot_people import prepare_people
from training.pilot.setting_run import training_inputs

GRID = make_grid(DREAMBOOTH, [1e-4, 3e-2], [4, 12], (False, True), [2])


class Interrupted(BaseException):
    """Stands for Ctrl-C and for the end of a process."""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "open_configured_base", lambda config, device: TinyBase())
    monkeypatch.setattr(whole, "open_faces", lambda faces: ColorFaces())
    monkeypatch.setattr(whole, "choose_device", lambda name: torch.device("cpu"))
    return prepared_dataset(tmp_path)


@pytest.fixture
def trained(monkeypatch):
    """Steps of each training of a person that was begun, in order."""
    begun = []

    def train(unet, layout, start, people, loss, settings, on_step=None):
        begun.append(settings.steps)
        if len(begun) == trained_before_end[0]:
            raise Interrupted
        return original(unet, layout, start, people, loss, settings, on_step)

    original, trained_before_end = stage.train_loras, [0]
    monkeypatch.setattr(stage, "train_loras", train)
    return begun, trained_before_end


def run(config, folder):
    return find_settings("tiny", config, GRID, folder, people=2, total_people=100)


def test_a_pilot_finds_a_setting_and_reports(config, tmp_path, capsys):
    choice = run(config, tmp_path / "pilot")
    assert choice.chosen.learning_rate == 3e-2
    text = capsys.readouterr().out
    assert text.count("not measured") == len(GRID) + 1
    assert text.count("<- chosen") == 1
    assert "which also selects the training images" in text
    report = json.loads((tmp_path / "pilot" / "pilot.json").read_text("utf-8"))
    assert report["people"] == list(COLORS)
    assert len(report["settings"]) == len(GRID)
    assert report["choice"]["chosen"]["steps"] == choice.chosen.steps
    chosen = next(entry for entry in report["settings"] if entry["steps"] == 12 and entry["learning_rate"] == 3e-2)
    assert chosen["relative_loss"] < 1.0
    assert (tmp_path / "pilot" / "sheet.png").stat().st_size > 1000


def test_an_interrupted_pilot_goes_on_where_it_was(config, tmp_path, trained):
    begun, end = trained
    end[0] = 6  # two people, one at a time: in the third setting
    with pytest.raises(Interrupted):
        run(config, tmp_path / "pilot")
    whole_results = {path.stem for path in (tmp_path / "pilot" / "settings").glob("*.json")}
    assert whole_results == {"without", GRID[0].name, GRID[1].name}
    begun.clear()
    end[0] = 0
    resumed = run(config, tmp_path / "pilot")
    assert len(begun) == 2 * (len(GRID) - 2)
    begun.clear()
    assert run(config, tmp_path / "pilot") == resumed
    assert not begun, "what was done was trained again"
    assert run(config, tmp_path / "elsewhere").best == resumed.best  # the cheapest depends on the clock


def test_a_larger_grid_trains_only_what_is_new_and_changed_settings_everything(config, tmp_path, trained):
    begun, _ = trained
    find_settings("tiny", config, GRID[:2], tmp_path / "pilot", people=2, total_people=100)
    begun.clear()
    run(config, tmp_path / "pilot")
    assert len(begun) == 2 * (len(GRID) - 2)
    begun.clear()
    run(replace(config, verify=replace(config.verify, seed=1)), tmp_path / "pilot")
    assert not begun, "how images are generated does not change a training"
    run(replace(config, dreambooth=replace(config.dreambooth, seed=1)), tmp_path / "pilot")
    assert len(begun) == 2 * len(GRID)


def test_the_class_word_counts_where_its_images_are_trained_on(config):
    def inputs(prior_weight, class_word):
        prior = replace(config.dreambooth, prior_weight=prior_weight)
        prepared = replace(config.preprocess, class_word=class_word)
        return training_inputs(replace(config, dreambooth=prior, preprocess=prepared), list(COLORS))

    assert inputs(0.5, "man") != inputs(0.5, "person")
    assert inputs(0.0, "man") == inputs(0.0, "person")


def test_a_training_that_ends_in_nan_fails_alone(config, tmp_path, monkeypatch, capsys):
    original = stage.train_loras

    def train(unet, layout, start, people, loss, settings, on_step=None):
        loras, losses = original(unet, layout, start, people, loss, settings, on_step)
        return (loras * float("nan") if settings.steps == 12 else loras), losses

    monkeypatch.setattr(stage, "train_loras", train)
    assert run(config, tmp_path / "pilot").chosen.steps == 4
    assert "failed: 2 of 2 trainings ended in NaN" in capsys.readouterr().out


def test_fewer_people_than_wanted(config, tmp_path):
    place, people = prepare_people(config, tmp_path / "pilot", 1, "cpu")
    assert (place.workspace, people) == (config.workspace, ["anna"])


def test_nobody_to_train(config, tmp_path):
    (tmp_path / "empty").mkdir()
    nobody = replace(config, workspace=tmp_path / "none", collect=CollectConfig(path=str(tmp_path / "empty")))
    with pytest.raises(ValueError, match="empty"):
        prepare_people(nobody, tmp_path / "pilot", 2, "cpu")


def test_without_images_to_measure_on(config, tmp_path):
    without = replace(config, preprocess=replace(config.preprocess, held_out=0))
    with pytest.raises(ValueError, match=r"preprocess\.held_out is 0"):
        run(without, tmp_path / "pilot")
