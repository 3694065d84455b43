"""A second run processes exactly what differs, or keeps it; what is gone leaves the stages that follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.fingerprints import Fingerprint
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker, done_before
from training.lora_dataset.stage_run import compare, run_stage


@dataclass
class Copies(Stage):
    """A stage that notes what it did; an item's input is a text."""

    inputs: dict[str, str]
    failing: tuple[str, ...] = ()
    name: str = "copies"
    did: list[str] = field(default_factory=list)

    def items(self, config: DatasetConfig) -> Sequence[str]:
        return list(self.inputs)

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        def fingerprint(item: str) -> Fingerprint:
            if self.inputs[item] == "missing":
                raise FileNotFoundError(f"{item}.png is missing")
            return {"text": self.inputs[item]}

        return fingerprint

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        def process(item: str) -> Record:
            if item in self.failing:
                raise ValueError("it fails")
            self.did.append(item)
            return Record(item)

        return process


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    return DatasetConfig(workspace=tmp_path, base=tmp_path)


def run(config: DatasetConfig, keep: bool = False, **inputs: str) -> list[str]:
    stage = Copies(inputs)
    assert run_stage(stage, config, keep=keep) == 0
    return stage.did


def test_exactly_what_differs_is_made_again(config, capsys):
    assert run(config, a="1", b="1") == ["a", "b"]
    assert run(config, a="1", b="1") == []
    assert run(config, a="1", b="2", c="1") == ["c", "b"]
    assert "1 items are made again, because they differ: other text (1)" in capsys.readouterr().out
    assert run(config, a="1", b="2", c="1") == []


def test_keep_keeps_it_and_says_what_differs(config, capsys):
    run(config, a="1", b="1")
    assert run(config, keep=True, a="2", c="1") == ["c"]
    assert "1 items are kept, as --keep says, though they differ: other text (1)" in capsys.readouterr().out
    assert Manifest(config.stage("copies")).done() == ["a", "b", "c"]
    assert list(compare(Copies({"a": "2", "b": "1", "c": "1"}), config).stale) == ["a"]


def test_what_is_gone_is_no_longer_done_and_comes_back_without_work(config):
    run(config, a="1", b="1")
    assert run(config, a="1") == []
    assert Manifest(config.stage("copies")).done() == ["a"]
    assert run(config, a="1", b="1") == []
    assert Manifest(config.stage("copies")).done() == ["a", "b"]
    run(config, a="1")
    assert run(config, a="1", b="2") == ["b"]


def test_a_failed_record_of_what_is_gone_is_removed(config):
    assert run_stage(Copies({"a": "1", "b": "1"}, failing=("b",)), config) == 1
    run(config, a="1")
    assert [record.item for record in Manifest(config.stage("copies")).records()] == ["a"]


def test_what_was_made_from_files_that_were_deleted_is_kept(config, capsys):
    run(config, a="1", b="1")
    assert run(config, a="missing", b="1") == []
    assert Manifest(config.stage("copies")).done() == ["a", "b"]
    assert "1 items are kept, their inputs are not there: a: FileNotFoundError: a.png" in capsys.readouterr().out


def test_a_comparison_writes_nothing(config):
    run(config, a="1", b="1")
    before = {path: path.read_bytes() for path in config.workspace.rglob("*") if path.is_file()}
    work = compare(Copies({"a": "2", "c": "1"}), config)
    assert (list(work.new), list(work.stale), [record.item for record in work.gone]) == (["c"], ["a"], ["b"])
    assert {path: path.read_bytes() for path in config.workspace.rglob("*") if path.is_file()} == before


def test_an_empty_input_names_the_stage_before_and_why(config):
    with pytest.raises(ValueError, match="run the stage `filter` first"):
        done_before(config, "filter")
    Manifest(config.stage("filter")).write(Record("a", "dropped", "too few images"))
    with pytest.raises(ValueError, match=r"stage `filter` before this one has nobody left: none of 1 is done, .* few"):
        done_before(config, "filter")
