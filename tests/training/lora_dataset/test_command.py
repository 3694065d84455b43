"""`python -m training dataset`: its exit code is not 0 whenever something was not done, and `status` never writes."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from training.engine.folder_lock import FolderInUseError
from training.lora_dataset import command
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.fingerprints import Fingerprint
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker
from training.lora_dataset.stage_registry import ORDER
from training.lora_dataset.workspace_lock import workspace_lock


class Some(Stage):
    """A stage of three items; some fail, "c" is dropped."""

    def __init__(self, name: str, *failing: str) -> None:
        self.name, self.failing = name, failing

    def items(self, config: DatasetConfig) -> Sequence[str]:
        return ["a", "b", "c"]

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        return lambda item: {"text": "1"}

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        def process(item: str) -> Record:
            if item in self.failing:
                raise ValueError(f"{item} is broken")
            return Record(item, "dropped" if item == "c" else "done")

        return process


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("{workspace: work, base: base, collect: {path: faces}}", encoding="utf-8")
    return path


def run(config: Path, *arguments: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parsed = parser.parse_args([*arguments, "--config", str(config)])
    parsed.run(parsed)


def use(monkeypatch: pytest.MonkeyPatch, *failing: str) -> None:
    monkeypatch.setattr(command, "load_stage", lambda name: Some(name, *failing))


def test_failed_items_are_an_error_after_all_is_done(config, monkeypatch):
    use(monkeypatch, "b")
    with pytest.raises(RuntimeError, match=r"7 items failed \(1 in collect, 1 in generate, .*everything else is done"):
        run(config, "all")
    assert Manifest(config.parent / "work" / "verify").done() == ["a"]


def test_dropped_items_are_no_error(config, monkeypatch):
    use(monkeypatch)
    run(config, "all")


def test_a_stage_of_which_nothing_is_done_ends_the_run_and_names_the_stage_before(config, monkeypatch):
    use(monkeypatch, "a", "b")
    with pytest.raises(RuntimeError, match=r"`collect` has done nothing: all 2 items .* a: ValueError: a is broken"):
        run(config, "all")
    assert not (config.parent / "work" / "generate").exists()
    with pytest.raises(RuntimeError, match=r"`filter` has done nothing.*what the stage `generate` before it made"):
        run(config, "filter")


@pytest.mark.parametrize(
    ("stage", "before"),
    [("generate", "collect"), ("filter", "generate"), ("preprocess", "filter"), ("dreambooth", "preprocess")],
)
def test_an_empty_input_is_an_error_that_names_the_stage_before(config, stage, before):
    with pytest.raises(ValueError, match=f"has nobody yet: run the stage `{before}` first"):
        run(config, stage)


def test_a_second_command_on_a_workspace_is_refused_and_status_is_not(config, monkeypatch, capsys):
    use(monkeypatch)
    with workspace_lock(config.parent / "work"):
        with pytest.raises(FolderInUseError, match="is being written by another process: process"):
            run(config, "all")
        run(config, "status")
    assert "0 done" in capsys.readouterr().out


def test_status_counts_what_is_stale_and_says_why(config, monkeypatch, capsys):
    use(monkeypatch)
    run(config, "collect")
    monkeypatch.setattr(Some, "fingerprints", lambda self, config: lambda item: {"text": "2"})
    run(config, "status")
    line = next(line for line in capsys.readouterr().out.splitlines()[::-1] if line.startswith("collect"))
    assert line == "collect    2 done  1 dropped  0 failed  3 stale: other text (3)"


def test_status_survives_a_damaged_record_and_names_it(config, monkeypatch, capsys):
    use(monkeypatch)
    run(config, "collect")
    (config.parent / "work" / "collect" / "a.json").write_text("{", encoding="utf-8")
    run(config, "status")
    shown = capsys.readouterr().out
    assert "1 done  1 dropped  1 failed" in shown
    assert "a.json is damaged" in shown


def test_a_stage_has_its_own_options_only(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    texts = {}
    for stage in (*ORDER, "all", "images", "status", "import"):
        with pytest.raises(SystemExit):
            parser.parse_args([stage, "--help"])
        texts[stage] = capsys.readouterr().out
    assert all(f"example: python -m training dataset {stage}" in text for stage, text in texts.items())
    assert {stage for stage, text in texts.items() if "--from" in text} == {"import"}
    assert {stage for stage, text in texts.items() if "--ray" not in text} == {"import", "status"}
