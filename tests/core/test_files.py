"""Tensor files and atomic writing."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from difflora_core import files
from difflora_core.files import open_tensors, read_shapes, read_tensors, replacing, write_tensors


@pytest.fixture(autouse=True)
def unswept(monkeypatch):
    """Every write lists its folder, as a new process does."""
    monkeypatch.setattr(files, "SWEEP_SECONDS", 0.0)


def test_tensors_and_metadata_come_back(tmp_path):
    write_tensors(tmp_path / "new" / "x.safetensors", {"a": torch.arange(6.0).view(2, 3)}, {"made by": "test"})
    tensors, metadata = read_tensors(tmp_path / "new" / "x.safetensors")
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert metadata == {"made by": "test"}
    assert read_shapes(tmp_path / "new" / "x.safetensors") == ({"a": (2, 3)}, {"made by": "test"})


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


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_that_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
        with replacing(tmp_path / "note.txt") as partial:
            partial.write_text("new", encoding="utf-8")
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_name_of_the_greatest_length_is_written(tmp_path):
    path = tmp_path / ("ü" * 120 + ".safetensors")
    write_tensors(path, {"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_os_error_with_its_number_and_the_file(tmp_path, number):
    path = tmp_path / "x.safetensors"

    def full() -> None:
        with replacing(path):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=rf"{os.strerror(number)}.*nothing is left of it.*x\.safetensors") as caught:
        full()
    assert caught.value.errno == number
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="the file before it is kept"):
        full()
    assert path.read_bytes() == b"old"


def test_a_write_that_the_system_cuts_off_keeps_the_file_before(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"the file before it is kept.*x\.safetensors") as caught:
            write_tensors(path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert read_tensors(path)[0]["a"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing x.txt, and its partial file."""
    code = (
        "import time; from pathlib import Path; from difflora_core.files import replacing\n"
        f"with replacing(Path({str(tmp_path / 'x.txt')!r})) as partial:\n"
        "    partial.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    yield process, next(tmp_path.glob(".*.partial"))
    process.kill()
    process.wait()


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, writer):
    process, partial = writer
    with replacing(tmp_path / "x.txt") as path:
        path.write_bytes(b"whole")
    assert partial.read_bytes() == b"half"  # its writer lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    with replacing(tmp_path / "another.txt") as path:
        path.write_bytes(b"whole")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["another.txt", "x.txt"]


def test_a_process_lists_a_folder_once_a_minute(tmp_path, writer, monkeypatch):
    process, partial = writer
    process.kill()
    process.wait()
    monkeypatch.setattr(files, "SWEEP_SECONDS", 60.0)
    monkeypatch.setitem(files._swept, tmp_path, time.monotonic())
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    assert partial.exists()
    monkeypatch.setitem(files._swept, tmp_path, time.monotonic() - 61)
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    assert not partial.exists()


def test_partial_files_of_another_machine_are_removed_when_they_are_old(tmp_path):
    partial = tmp_path / f".x.txt.another1.{16 * '0'}.partial"
    partial.write_bytes(b"half")
    write_tensors(tmp_path / "y.safetensors", {"a": torch.zeros(1)})
    assert partial.exists()
    old = time.time() - files.ABANDONED_SECONDS - 10
    os.utime(partial, (old, old))
    write_tensors(tmp_path / "y.safetensors", {"a": torch.zeros(1)})
    assert not partial.exists()


def test_links_are_neither_followed_nor_swept(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    tokens = iter(["0" * 16, "1" * 16])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(tokens))
    trap = tmp_path / "folder" / f".x.txt.{files._machine()}.{'0' * 16}.partial"
    trap.symlink_to(victim)
    with replacing(tmp_path / "folder" / "x.txt") as partial:
        assert partial.name.endswith(f".{'1' * 16}.partial")
        partial.write_bytes(b"new")
    assert victim.read_bytes() == b"precious"
    assert trap.is_symlink()


def test_a_partial_file_that_was_swept_before_its_lock_is_made_again(tmp_path, monkeypatch):
    taken = []

    def flock(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(next(tmp_path.glob(".*.partial")))
            taken[0].unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with replacing(tmp_path / "x.txt") as partial:
        assert partial != taken[0]
        partial.write_bytes(b"new")
    assert (tmp_path / "x.txt").read_bytes() == b"new"


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
