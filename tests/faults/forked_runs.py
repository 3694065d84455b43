"""Runs of a command line as forked children of one process that has imported everything; each can be killed.

`python -m training` takes seconds to import its libraries. Here that is done once: a child is forked before any thread
exists, becomes a process group of its own, and begins with the command line. What it does to files is told by Python's
audit events and noted in a journal that outlives SIGKILL.
"""

import contextlib
import importlib
import os
import pkgutil
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR
LOCKS = (".lock", ".lock.json")
OURS = ("difflora_core", "training")
EVERYTHING = (
    *OURS,
    "accelerate.tracking",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "insightface.app",
    "matplotlib.backends.backend_agg",
    "onnxruntime",
    "tensorboard.compat.proto.event_pb2",
    "torch.utils.tensorboard",
    "transformers.models.clip.modeling_clip",
)
"""Our packages, with all their modules, and libraries' modules that are imported only while a command runs."""
OnEvent = Callable[[int, str, str], None]
"""Called before a change of a file, with its number from 0, its kind and its path."""


@dataclass(frozen=True)
class Run:
    """A child that has ended."""

    code: int
    """Exit code; negative is the signal that killed it."""
    seconds: float
    """From the command line to the end."""
    changes: tuple[tuple[str, str], ...]
    """Kind ("write", "rename") and path of each file that it opened for writing or renamed, in order."""
    steps: int
    """Steps that an optimizer did."""
    output: str
    """What it printed, errors too."""

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL

    @property
    def last_line(self) -> str:
        """The last line that it printed, without a progress bar before it."""
        lines = self.output.replace("\r", "\n").strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Child:
    """A child that runs."""

    pid: int
    """Its process number, and its group's."""
    log: Path
    """Where it prints."""
    journal: Path
    """Where its changes are noted."""
    began: float
    """On `time.monotonic`'s clock."""

    def wait(self, kill_after: float | None = None) -> Run:
        """Wait until it ends, or kill its whole group after some seconds."""
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if kill_after is not None and time.monotonic() - self.began >= kill_after:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                kill_after = None
            time.sleep(0.002)
        seconds = time.monotonic() - self.began
        noted = [line.partition(" ") for line in self.journal.read_text(encoding="utf-8").splitlines()]
        changes = tuple((kind, path) for kind, _, path in noted if kind != "step")
        output = self.log.read_text(encoding="utf-8", errors="replace")
        steps = sum(kind == "step" for kind, _, _ in noted)
        return Run(os.waitstatus_to_exitcode(ended[1]), seconds, changes, steps, output)


def preload(names: Iterable[str]) -> None:
    """Import what commands import, packages of ours with all their modules, so that a forked child begins at once."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        module = importlib.import_module(name)
        if name.split(".")[0] in OURS and hasattr(module, "__path__"):
            for inner in pkgutil.walk_packages(module.__path__, f"{name}."):
                if not inner.name.endswith("__main__"):
                    importlib.import_module(inner.name)


def start(command: Callable[[], int], folder: Path, place: Path, on_event: OnEvent | None = None) -> Child:
    """Start a function in a child.

    Args:
        command: Returns the exit code.
        folder: Changes of files in it are noted.
        place: Folder for the child's log, journal and temporary files.
        on_event: See `OnEvent`.
    """
    place.mkdir(parents=True, exist_ok=True)
    number = len(list(place.glob("*.log")))
    log, journal = place / f"{number:04d}.log", place / f"{number:04d}.journal"
    sys.stdout.flush()
    sys.stderr.flush()
    journal.touch()
    began = time.monotonic()
    if pid := os.fork():
        return Child(pid, log, journal, began)
    code = 70  # a fault of this program
    try:
        _become_process(log, place / "tmp")
        _watch(folder, os.open(journal, os.O_WRONLY | os.O_APPEND), on_event)
        code = command()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def training(words: Sequence[str]) -> Callable[[], int]:
    """Return what runs `python -m training` with these words."""

    def run() -> int:
        from training.__main__ import main

        sys.argv = ["python -m training", *words]
        sys.orig_argv = [sys.executable, "-m", "training", *words]
        return main()

    return run


def _become_process(log: Path, temporary: Path) -> None:
    """Make of a forked copy what a new process would be: own group, own output, own seeds."""
    import numpy as np

    os.setsid()
    temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115 # until the process ends
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    random.seed()  # a new process draws others than its parent
    np.random.seed()


def _watch(folder: Path, journal: int, on_event: OnEvent | None) -> None:
    """Note every file of the folder that is opened for writing or renamed, and every step of an optimizer."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    root, number = f"{folder}{os.sep}", 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal number
        if event == "open":
            path, kind = arguments[0], "write" if (arguments[2] or 0) & WRITING else ""
        elif event == "os.rename":
            path, kind = arguments[1], "rename"
        else:
            return
        if not kind or not isinstance(path, str | bytes | os.PathLike):
            return
        path = os.fsdecode(path)
        if path.startswith(root) and os.path.basename(path) not in LOCKS:
            os.write(journal, f"{kind} {path}\n".encode())
            number += 1
            if on_event is not None:
                on_event(number - 1, kind, path)

    register_optimizer_step_post_hook(lambda *_: os.write(journal, b"step\n") and None)
    sys.addaudithook(hook)
