"""Atomic writing: partial files, their modes, locks and leftovers."""

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch

from difflora_core import files
from difflora_core.files import read_tensors, replacing, write_tensors


@pytest.fixture(autouse=True)
def unswept(monkeypatch):
    """Every write lists its folder, as a new process does."""
    monkeypatch.setattr(files, "SWEEP_SECONDS", 0.0)


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
