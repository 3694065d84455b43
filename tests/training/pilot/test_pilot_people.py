"""How many candidates a pilot collects until enough people are left."""

from dataclasses import replace
from pathlib import Path

import pytest

from training.lora_dataset.config import DatasetConfig, PackConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.pack_plan import split_of
from training.pilot import pilot_people
from training.pilot.pilot_people import prepare_people

SOURCE = [f"person_{number:02d}" for number in range(20)]


@pytest.fixture
def collected(monkeypatch):
    """Limits that stages were run with; the filter drops every second candidate, and the source has 20."""
    limits = []

    def run_stage(stage: str, config: DatasetConfig, device: str) -> None:
        candidates = SOURCE[: config.collect.max_people]
        kept = candidates if stage == "collect" else candidates[::2]
        for name in kept:
            Manifest(config.stage(stage)).write(Record(name))
        if stage == "collect":
            limits.append(config.collect.max_people)

    monkeypatch.setattr(pilot_people, "load_stage", lambda name: name)
    monkeypatch.setattr(pilot_people, "run_stage", run_stage)
    return limits


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    return DatasetConfig(tmp_path / "work", tmp_path / "base")


def test_candidates_are_added_until_enough_are_left(collected, config, tmp_path):
    place, people = prepare_people(config, tmp_path / "pilot", 4, "cpu")
    assert place.workspace == tmp_path / "pilot" / "dataset"
    assert people == SOURCE[:8:2]
    assert collected == [4, 6, 7]
    assert not config.workspace.exists()
    collected.clear()
    assert prepare_people(config, tmp_path / "pilot", 4, "cpu")[1] == people
    assert collected == [7], "the stages look again, at no fewer candidates than before"


def test_people_who_are_kept_for_the_evaluation_are_left_out(collected, config, tmp_path):
    config = replace(config, pack=PackConfig(validation=0.0, test=0.5))
    for name in SOURCE:
        Manifest(config.stage("preprocess")).write(Record(name))
    _, people = prepare_people(config, tmp_path / "pilot", 5, "cpu")
    assert people == [name for name in SOURCE if split_of(name, 0.0, 0.5) == "train"][:5]
    assert len(set(SOURCE[:5]) - set(people)) > 0


def test_the_source_has_no_more(collected, config, tmp_path):
    assert prepare_people(config, tmp_path / "pilot", 15, "cpu")[1] == SOURCE[::2]


def test_everybody_is_dropped(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pilot_people, "load_stage", lambda name: name)
    monkeypatch.setattr(pilot_people, "run_stage", lambda *_: None)
    with pytest.raises(ValueError, match="nobody is left to train"):
        prepare_people(config, tmp_path / "pilot", 4, "cpu")


def test_people_of_the_dataset_are_taken(collected, config, tmp_path):
    for name in SOURCE[:3]:
        Manifest(config.stage("preprocess")).write(Record(name))
    place, people = prepare_people(config, tmp_path / "pilot", 2, "cpu")
    assert (place, people) == (config, SOURCE[:2])
    assert not collected
