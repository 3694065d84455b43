"""A run that was killed and started again ends with the same numbers, bit for bit."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("kill_me.py")


def _run(folder: Path) -> torch.Tensor:
    spec = importlib.util.spec_from_file_location("kill_me", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_and_resumed_is_the_same_bit_for_bit(tmp_path):
    through = _run(tmp_path / "through")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, PROGRAM, tmp_path / "killed", "7"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "line.safetensors").exists()
    assert torch.equal(_run(tmp_path / "killed"), through)


def test_a_finished_run_is_not_run_again(tmp_path):
    first = _run(tmp_path)
    written = (tmp_path / "line.safetensors").stat().st_mtime_ns
    assert torch.equal(_run(tmp_path), first)
    assert (tmp_path / "line.safetensors").stat().st_mtime_ns == written


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_workers_do_not_outlive_a_killed_command(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = subprocess.Popen([sys.executable, PROGRAM.with_name("leave_me.py"), tmp_path], env=environment)
    files = [tmp_path / f"worker_{rank}" for rank in (0, 1)]
    _wait_for(lambda: all(file.exists() for file in files))
    command.kill()
    command.wait()
    workers = [int(file.read_text()) for file in files]
    _wait_for(lambda: not any(_runs(worker) for worker in workers))


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return not (Path(f"/proc/{process}/stat").exists() and ") Z " in Path(f"/proc/{process}/stat").read_text())
