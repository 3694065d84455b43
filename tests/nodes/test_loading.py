"""Loading the pack has no side effects: one copy of the core, no heavy imports, no global state."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.comfyui.host import find_host
from miniature.paths import ROOT
from tests.node_sockets import NODES


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


def test_an_older_python_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be about a name that `typing` lacks."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(sys, "version", "3.10.12 (main)")
    with pytest.raises(ImportError, match=r"needs Python 3\.11 or newer, and this ComfyUI runs on 3\.10\.12"):
        pack.comfy_entrypoint().send(None)


def test_every_schema_is_valid(loaded: dict[str, Any]) -> None:
    assert sorted(loaded["nodes"]) == sorted(NODES)


def test_one_copy_of_the_core(loaded: dict[str, Any]) -> None:
    """If `difflora_core` were imported under its own name too, each class would exist twice."""
    copies = [name for name in loaded["modules"] if name.endswith("difflora_core.model")]
    assert copies == ["/some/custom_nodes/ComfyUI-DiffLoRA_x_1.difflora_core.model"]
    assert loaded["host_nodes_untouched"]


@pytest.mark.parametrize("heavy", ["insightface", "training", "miniature"])
def test_loading_imports_nothing_heavy(loaded: dict[str, Any], heavy: str) -> None:
    assert heavy not in {name.split(".")[0] for name in loaded["modules"]}


def test_loading_does_not_change_the_random_state(loaded: dict[str, Any]) -> None:
    assert loaded["random_state_unchanged"]


def test_networks_are_managed_by_the_host(loaded: dict[str, Any]) -> None:
    assert loaded["memory"] == {"loaded": True, "unloaded": True, "same": True}


def test_missing_insightface_is_an_error_with_the_command(loaded: dict[str, Any]) -> None:
    message = loaded["without_insightface"]
    assert "insightface" in message
    assert f'"{sys.executable}" -m pip install insightface' in message
    assert "--force-reinstall" not in message


def test_a_gpu_runtime_is_reinstalled_after_insightface(loaded: dict[str, Any]) -> None:
    """insightface installs onnxruntime, whose files overwrite those of the variant."""
    assert loaded["with_gpu_runtime"].endswith("install --force-reinstall --no-deps onnxruntime-gpu")


def test_two_runtimes_are_a_warning(loaded: dict[str, Any]) -> None:
    *choices, warning = loaded["two_runtimes"]
    assert len(choices) == 2
    assert "onnxruntime-gpu" in warning
    assert "uninstall" in warning


def test_newer_hosts_get_further_fields(loaded: dict[str, Any]) -> None:
    nodes = loaded["newer_host"]
    assert {name for name, node in nodes.items() if node["intermediate"]} == {
        "DiffLoRALoad",
        "DiffLoRALoadFolder",
        "DiffLoRAEncodeFace",
        "DiffLoRAMixFeatures",
        "DiffLoRASample",
        "DiffLoRAEncode",
        "DiffLoRABlend",
        "DiffLoRALoadIdentity",
        "DiffLoRALoadLoRA",
        "DiffLoRAApply",
        "DiffLoRAApplyStrengths",
        "DiffLoRARefine",
        "DiffLoRAFaceSimilarity",
        "DiffLoRAPickBest",
    }, "every node that shows text or images and is no output node"
    assert nodes["DiffLoRAApply"]["advanced"] == ["input", "middle", "output", "strict", "side", "bypass"]
    assert nodes["DiffLoRASample"]["advanced"] == ["temperature"]
    assert nodes["DiffLoRADecode"]["advanced"] == []


def test_every_node_is_found_by_five_further_words(loaded: dict[str, Any]) -> None:
    """Words that are not in its name, by which it is found anyway."""
    for name, node in loaded["newer_host"].items():
        further = {word.lower() for word in node["aliases"] if word.lower() not in node["title"].lower()}
        assert len(further) == len(node["aliases"]) >= 5, f"{name} ({node['title']}): {node['aliases']}"


@pytest.mark.parametrize(
    "word", ["identity", "portrait", "likeness", "insightface", "InstantID", "character", "compare"]
)
def test_common_words_find_a_node(loaded: dict[str, Any], word: str) -> None:
    assert any(word in node["aliases"] for node in loaded["newer_host"].values())


def test_requirements_do_not_replace_packages_of_the_host() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {re.split(r"[^\w-]", line)[0] for line in lines if line and not line.startswith("#")}
    assert not names & {"torch", "torchvision", "torchaudio", "numpy", "insightface", "onnxruntime", "onnxruntime-gpu"}
    assert not [line for line in lines if not line.startswith("#") and re.search(r"==|<|~=|--|https?:", line)]
