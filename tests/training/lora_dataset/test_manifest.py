"""The manifest and the loop over items: nothing is done twice, one failure stops nobody, a full disk stops all."""

import errno
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.fingerprints import Fingerprint
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import OutOfSpaceError, Stage, Worker
from training.lora_dataset.stage_run import run_stage


@dataclass
class Toy(Stage):
    """A stage over four names that notes what it did."""

    name: str = "toy"
    gpu: bool = False
    did: list[str] = field(default_factory=list)
    trouble: dict[str, BaseException] = field(default_factory=dict)
    finished: int = 0

    def items(self, config: DatasetConfig) -> Sequence[str]:
        return ["a", "b", "c", "d"]

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        return lambda item: {}

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        def work(item: str) -> Record:
            if item in self.trouble:
                raise self.trouble[item]
            self.did.append(item)
            return Record(item, "dropped" if item == "b" else "done")

        return work

    def finish(self, config: DatasetConfig) -> None:
        self.finished += 1


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    return DatasetConfig(workspace=tmp_path, base=tmp_path)


def test_what_is_settled_is_not_done_again(config: DatasetConfig) -> None:
    first, second = Toy(), Toy()
    run_stage(first, config)
    run_stage(second, config)
    assert first.did == ["a", "b", "c", "d"]
    assert second.did == []
    assert second.finished == 1


def test_a_failure_is_listed_and_tried_again(config: DatasetConfig) -> None:
    run_stage(Toy(trouble={"c": ValueError("a broken image")}), config)
    record = Manifest(config.stage("toy")).read("c")
    assert record is not None
    assert (record.status, record.reason) == ("failed", "ValueError: a broken image")
    again = Toy()
    run_stage(again, config)
    assert again.did == ["c"]
    assert Manifest(config.stage("toy")).done() == ["a", "c", "d"]


def test_a_full_disk_stops_the_run(config: DatasetConfig) -> None:
    toy = Toy(trouble={"b": OSError(errno.ENOSPC, "No space left on device")})
    with pytest.raises(OutOfSpaceError, match="free some space and run the same command again"):
        run_stage(toy, config)
    assert toy.did == ["a"]
    assert Manifest(config.stage("toy")).read("b") is None


def test_interrupting_keeps_what_was_done(config: DatasetConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stage(Toy(trouble={"c": KeyboardInterrupt()}), config)
    again = Toy()
    run_stage(again, config)
    assert again.did == ["c", "d"]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        Manifest(tmp_path).write(Record(name))


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = Record("小明", "dropped", "zu wenig Bilder", {"images": [1, 2]}, 0.5)
    Manifest(tmp_path).write(record)
    assert list(Manifest(tmp_path).records()) == [record]
    assert [path.name for path in tmp_path.iterdir()] == ["小明.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ('{"item": "a", "status": "do', "Unterminated string"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "it holds a list, expected a record"),
        ('{"item": "b"}', "it is of item 'b', expected 'a'"),
        ('{"item": "a", "status": "ready"}', "its status is 'ready', expected one of done, dropped"),
        ('{"item": "a", "status": "done", "facts": [1]}', r"its facts is \[1\]"),
        ('{"item": "a", "status": "done", "mood": "good"}', "it has 'mood', which no record has"),
        ("\udcff", "can't decode|codec"),
    ],
)
def test_a_damaged_record_counts_as_failed_and_is_named(config: DatasetConfig, content: str, message: str) -> None:
    run_stage(Toy(), config)
    path = config.stage("toy") / "a.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    (record,) = (record for record in Manifest(config.stage("toy")).records() if record.status == "failed")
    assert record == Manifest(config.stage("toy")).read("a")
    assert record.reason.startswith(f"the record {path} is damaged: ")
    assert re.search(message, record.reason)
    again = Toy()
    run_stage(again, config)
    assert again.did == ["a"]


def test_what_is_no_file_is_no_record(config: DatasetConfig) -> None:
    (config.stage("toy") / "a.json").mkdir(parents=True)
    (record,) = Manifest(config.stage("toy")).records()
    assert (record.status, record.item) == ("failed", "a")
    assert "not a regular file" in record.reason


def test_a_disk_that_is_full_for_a_record_names_it_and_what_was_kept(
    config: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OutOfSpaceError, match=r"a\.json.*all items that have a record are kept: free some space"):
            run_stage(Toy(), config)
    toy = Toy()
    run_stage(toy, config)
    assert toy.did == ["a", "b", "c", "d"]


def test_what_names_a_file_that_is_not_unicode_is_read_as_written(tmp_path: Path) -> None:
    record = Record("a", "failed", "caf\udce9.safetensors: Zoë", {"path": "caf\udce9.safetensors"})
    Manifest(tmp_path).write(record)
    assert Manifest(tmp_path).read("a") == record
