"""Tensor files and atomic writing."""

import errno
import os
from pathlib import Path

import pytest
import torch

from difflora_core import files
from difflora_core.files import read_shapes, read_tensors, replacing, write_tensors


def test_tensors_and_metadata_come_back(tmp_path):
    write_tensors(tmp_path / "new" / "x.safetensors", {"a": torch.arange(6.0).view(2, 3)}, {"made by": "test"})
    tensors, metadata = read_tensors(tmp_path / "new" / "x.safetensors")
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert metadata == {"made by": "test"}
    assert read_shapes(tmp_path / "new" / "x.safetensors") == ({"a": (2, 3)}, {"made by": "test"})


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
    ],
    ids=["html", "lfs", "empty", "pickle", "text"],
)
def test_other_files_are_described(tmp_path, read, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.safetensors")


def test_an_error_leaves_the_file_before_it_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old", encoding="utf-8")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_text("half of the new", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as partial:
        partial.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_os_error_with_its_number(tmp_path, monkeypatch):
    def full(tensors: object, path: Path, metadata: object = None) -> None:
        raise files.SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
