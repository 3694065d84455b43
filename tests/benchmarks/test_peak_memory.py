"""Peak memory as the system tells it."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peak_memory import peak_gib

ROOT = Path(__file__).parents[2]


def test_the_peak_stays_after_memory_is_freed() -> None:
    program = "from benchmarks.peak_memory import *; a = peak_gib(); x = b'x' * 2**28; del x; print(a, peak_gib())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 0.2
    assert after - before == pytest.approx(0.25, abs=0.05)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="another process is known by /proc")
def test_of_another_process() -> None:
    assert peak_gib(os.getpid()) == pytest.approx(peak_gib(), rel=0.1)


def test_what_the_system_does_not_tell_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math.isnan(peak_gib(2**30))
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert math.isnan(peak_gib())
