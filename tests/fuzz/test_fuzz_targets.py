"""The fuzzing program's targets and mutations, without atheris: seeds are read, and bad readers are found."""

import json
from pathlib import Path

import pytest

from tests.fuzz.file_mutations import mutate_safetensors, mutate_settings
from tests.fuzz.fuzz_readers import MAX_BYTES, NAMES
from tests.fuzz.reader_targets import READERS, SETTINGS, Finding, Reader, seeds


def test_names():
    assert tuple(READERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read(name, tmp_path):
    (folder := tmp_path / "seeds").mkdir()
    paths = seeds(READERS[name], folder)
    assert len(paths) >= 3
    for path in paths:
        content = path.read_bytes()
        assert len(content) < MAX_BYTES, path.name
        assert READERS[name].check(content, tmp_path), path.name


def test_there_are_settings_of_every_kind(tmp_path):
    assert {path.name.partition("_")[0] for path in seeds(READERS["settings"], tmp_path)} == set(SETTINGS)


@pytest.mark.parametrize("name", NAMES)
def test_changed_seeds_are_read_or_refused(name, tmp_path):
    (folder := tmp_path / "seeds").mkdir()
    mutate = mutate_settings if name == "settings" else mutate_safetensors
    accepted = []
    for number, path in enumerate(seeds(READERS[name], folder) * 4):
        content = mutate(path.read_bytes(), MAX_BYTES, number, lambda content, most: content[::-1][:most])
        assert len(content) <= MAX_BYTES
        accepted.append(READERS[name].check(content, tmp_path))
    assert not all(accepted)


def refuse_without_the_path(path: Path) -> None:
    raise ValueError("it is damaged")


def refuse_by_silence(path: Path) -> None:
    raise ValueError


def read_without_a_check(path: Path) -> None:
    json.loads(path.read_text("utf-8"))["header"]


@pytest.mark.parametrize(
    ("read", "content", "error"),
    [
        (refuse_without_the_path, b"", Finding),
        (refuse_by_silence, b"", Finding),
        (read_without_a_check, b"\xff", Finding),
        (read_without_a_check, b"{", Finding),
        (read_without_a_check, b"{}", KeyError),
        (read_without_a_check, b"[]", TypeError),
    ],
)
def test_a_bad_reader_is_found(read, content, error, tmp_path):
    with pytest.raises(error):
        Reader("bad", "file", read, lambda folder: None).check(content, tmp_path)
