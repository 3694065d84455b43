"""What `pip install .` brings: the library alone, with its types and its command."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from miniature.paths import DIFFLORA_CHECKPOINT

ROOT = Path(__file__).parents[3]
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources and unpacked as pip would."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(ROOT / "difflora_core", source / "difflora_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    done = subprocess.run(build, capture_output=True, text=True, check=False, env=os.environ | NO_INDEX)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


def test_all_packages_and_types_are_in_the_wheel(site):
    expected = {path.relative_to(ROOT) for path in (ROOT / "difflora_core").rglob("*.py")}
    assert {path.relative_to(site) for path in site.rglob("*.py")} == expected
    assert (site / "difflora_core" / "py.typed").is_file()
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert "difflora = difflora_core.command_line:difflora" in entry_points.read_text(encoding="utf-8")


def test_the_command_runs_from_the_wheel(site, tmp_path):
    program = "import sys; from difflora_core.command_line import difflora; sys.exit(difflora())"
    command = [sys.executable, "-c", program, "info", DIFFLORA_CHECKPOINT]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "DiffLoRA checkpoint" in done.stdout
