"""Reading and writing tensor files, also while others replace them."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from difflora_core import files
from difflora_core.files import open_tensors, read_shapes, read_tensors, write_tensors


def test_tensors_and_metadata_come_back(tmp_path):
    write_tensors(tmp_path / "new" / "x.safetensors", {"a": torch.arange(6.0).view(2, 3)}, {"made by": "test"})
    tensors, metadata = read_tensors(tmp_path / "new" / "x.safetensors")
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert metadata == {"made by": "test"}
    assert read_shapes(tmp_path / "new" / "x.safetensors") == ({"a": (2, 3)}, {"made by": "test"})


def test_metadata_that_are_no_text_can_be_read_again(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"steps": 3})
    assert read_tensors(tmp_path / "x.safetensors")[1] == {"steps": "3"}


def test_a_file_has_the_bytes_that_safetensors_writes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{kind}.{number}": torch.randn(shape, generator=generator).mul(50).to(kind)
        for number, shape in enumerate([(), (3,), (2, 5), (0, 3)])
        for kind in files.DTYPES
    }
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"name": 'Łukasz "x"'})
    write_tensors(tmp_path / "ours.safetensors", tensors, {"name": 'Łukasz "x"'})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_shared_and_transposed_tensors_are_written_as_they_look(tmp_path):
    one = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "x.safetensors", {"a": one, "b": one, "c": one.T})
    found = load((tmp_path / "x.safetensors").read_bytes())
    assert torch.equal(found["b"], one)
    assert torch.equal(found["c"], one.T)


def test_what_cannot_be_read_again_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"x\.safetensors: tensor a is torch.complex64"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1, dtype=torch.complex64)})
    with pytest.raises(ValueError, match=r"a header of 32,.* bytes, at most 32,000,000"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"long": "x" * 32_000_000})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("read", [read_tensors, read_shapes])
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.safetensors"):
        read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("read", [read_tensors, read_shapes])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "empty"),
        (b"PK\x03\x04zzzzzzzz", "pickled"),
        (b"dear diary, today", "17 bytes that begin with b'dear diary"),
        ((40_000_000).to_bytes(8, "little") + b"{" + b" " * 40_000_000, "a header of 40,000,000 bytes, at most 32"),
    ],
    ids=["html", "lfs", "empty", "pickle", "text", "huge header"],
)
def test_other_files_are_described(tmp_path, read, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.safetensors")


def test_pipes_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a pipe, a device or a socket, expected a safetensors file"):
        read_tensors(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a folder, expected a safetensors file"):
        read_tensors(tmp_path)


def write_many(path: Path, value: float, count: int) -> None:
    for _ in range(count):
        write_tensors(path, {"a": torch.full((1000,), value), "b": torch.full((int(value),), value)}, {"v": str(value)})


def test_writers_and_readers_of_one_file_never_meet_a_mixture(tmp_path):
    path = tmp_path / "x.safetensors"
    write_many(path, 1.0, 1)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(path, value, 150)) for value in (1.0, 7.0, 300.0)]
    for process in writers:
        process.start()
    reads = 0
    while any(process.is_alive() for process in writers):
        tensors, metadata = read_tensors(path)
        value = float(metadata["v"])
        assert (tensors["a"] == value).all()
        assert (tensors["b"] == value).all()
        assert len(tensors["b"]) == value
        reads += 1
    assert [process.exitcode for process in writers] == [0, 0, 0]
    assert reads > 20
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(tmp_path, monkeypatch):
    path, opened = tmp_path / "x.safetensors", []
    write_many(path, 1.0, 1)

    def slow(*arguments: object, **options: object) -> object:
        file = real(*arguments, **options)
        opened.append(file)
        if len(opened) < 3:
            write_many(path, 1.0 + len(opened), 1)
        return file

    real = files.safe_open
    monkeypatch.setattr(files, "safe_open", slow)
    with open_tensors(path) as file:
        assert file.metadata()["v"] == "3.0"
    assert len(opened) == 3


def test_a_file_that_is_always_replaced_is_an_error(tmp_path, monkeypatch):
    write_many(tmp_path / "x.safetensors", 1.0, 1)
    numbers = iter(range(1000))
    monkeypatch.setattr(files, "_version", lambda path: (next(numbers),))
    with pytest.raises(OSError, match=r"x\.safetensors was replaced again and again"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("length", [0, 7, 8, 40, 100])
def test_a_file_that_is_cut_off_is_named(tmp_path, length):
    write_many(tmp_path / "x.safetensors", 1.0, 1)
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"x\.safetensors is not a safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_header_of_another_form_is_named(tmp_path):
    for header in ([], {"a": 1}, {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-4, 4]}}, {"a": {}}):
        text = json.dumps(header).encode()
        (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(ValueError, match=r"x\.safetensors is not a safetensors file"):
            read_tensors(tmp_path / "x.safetensors")
