"""Loading the pack disturbs nobody: one copy of the core, nothing heavy, nothing global."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.comfyui.host import find_host
from miniature.paths import ROOT


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script, base = Path(__file__).with_name("load_pack.py"), tmp_path_factory.mktemp("base")
    done = subprocess.run(
        [sys.executable, str(script), str(find_host()), str(base)],
        cwd=base,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_schema_is_valid(loaded: dict[str, Any]) -> None:
    assert len(loaded["nodes"]) == len(set(loaded["nodes"])) == 14


def test_one_copy_of_the_core(loaded: dict[str, Any]) -> None:
    """Were `difflora_core` there under its own name too, each class would exist twice."""
    copies = [name for name in loaded["modules"] if name.endswith("difflora_core.model")]
    assert copies == ["/some/custom_nodes/ComfyUI-DiffLoRA_x_1.difflora_core.model"]
    assert loaded["host_nodes_untouched"]


@pytest.mark.parametrize("heavy", ["insightface", "training", "miniature"])
def test_loading_brings_nothing_it_does_not_need(loaded: dict[str, Any], heavy: str) -> None:
    assert heavy not in {name.split(".")[0] for name in loaded["modules"]}


def test_loading_leaves_the_random_state_alone(loaded: dict[str, Any]) -> None:
    assert loaded["random_state_unchanged"]


def test_networks_obey_the_hosts_memory_management(loaded: dict[str, Any]) -> None:
    assert loaded["memory"] == {"known": True, "left": True, "same": True}


def test_missing_insightface_is_said_once_with_the_command(loaded: dict[str, Any]) -> None:
    message = loaded["without_insightface"]
    assert "insightface" in message
    assert f'"{sys.executable}" -m pip install insightface' in message
    assert "--force-reinstall" not in message


def test_a_gpu_runtime_is_put_back_after_insightface(loaded: dict[str, Any]) -> None:
    """insightface brings onnxruntime along, whose files would take the place of the variant's."""
    assert loaded["with_gpu_runtime"].endswith("install --force-reinstall --no-deps onnxruntime-gpu")


def test_two_runtimes_are_noticed(loaded: dict[str, Any]) -> None:
    *choices, warning = loaded["two_runtimes"]
    assert len(choices) == 2
    assert "onnxruntime-gpu" in warning
    assert "uninstall" in warning


def test_requirements_leave_the_users_packages_alone() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {re.split(r"[^\w-]", line)[0] for line in lines if line and not line.startswith("#")}
    assert not names & {"torch", "torchvision", "torchaudio", "numpy", "insightface", "onnxruntime", "onnxruntime-gpu"}
    assert not [line for line in lines if not line.startswith("#") and re.search(r"==|<|~=|--|https?:", line)]
