"""Loading the pack disturbs nobody: one copy of the core, nothing heavy, nothing global."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.host import find_host


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
