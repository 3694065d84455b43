"""Starts two workers that write their process numbers and then wait for ever: run by test_loop, and killed."""

import os
import sys
import time
from pathlib import Path

from training.engine.processes import in_processes


def wait(rank: int, processes: int, folder: Path) -> None:
    """Worker: says who it is."""
    (folder / f"worker_{rank}.partial").write_text(str(os.getpid()))
    (folder / f"worker_{rank}.partial").rename(folder / f"worker_{rank}")
    time.sleep(600)


if __name__ == "__main__":
    in_processes(wait, 2, Path(sys.argv[1]))
