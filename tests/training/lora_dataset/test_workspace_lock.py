"""One workspace, one writer: the second is told who the first is; a killed one's lock is free."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.engine.folder_lock import FolderInUseError, run_lock
from training.lora_dataset.workspace_lock import workspace_lock

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from pathlib import Path
from training.lora_dataset.workspace_lock import workspace_lock
with workspace_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_writer_is_told_who_the_first_is(holder, tmp_path):
    message = rf"process {holder.pid} on .* since 20\d\d-.*Wait until"
    with pytest.raises(FolderInUseError, match=message) as caught, workspace_lock(tmp_path):
        pytest.fail("two writers")
    assert str(tmp_path) in str(caught.value)
    assert "-c" in str(caught.value), "the command is named"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_the_lock_of_a_killed_holder_is_taken_over(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock.json").exists(), "what it left"
    with workspace_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock.json").read_text(encoding="utf-8")
    assert not (tmp_path / ".lock.json").exists()


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), workspace_lock(tmp_path / "new"):
        raise KeyError
    with workspace_lock(tmp_path / "new"):
        pass


def test_two_training_runs_do_not_share_an_output_folder(holder, tmp_path, monkeypatch):
    with pytest.raises(FolderInUseError, match="choose another output folder"), run_lock(tmp_path):
        pytest.fail("two runs")
    monkeypatch.setenv("RANK", "1")
    with run_lock(tmp_path):
        pass  # the first of the launched processes holds it
