"""Impossible values at any widget of any node are refused before any work, and so are impossible file names."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.comfyui.host import find_host


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script, base = Path(__file__).with_name("node_inputs.py"), tmp_path_factory.mktemp("base")
    command = [sys.executable, str(script), str(find_host()), str(base)]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_impossible_value_is_refused_and_its_input_named(results: dict[str, Any]) -> None:
    assert len(results["tried"]) > 150
    for what, error in results["tried"]:
        widget = what.split(" = ")[0].split(".")[1]
        assert error.startswith(f"ValueError: `{widget}` is "), f"{what}: {error}"
        assert "; it takes a" in error or "the choices are " in error, f"{what}: {error}"


def test_every_value_in_range_is_accepted(results: dict[str, Any]) -> None:
    assert results["refused though possible"] == []


def test_a_long_list_of_choices_is_cut(results: dict[str, Any]) -> None:
    assert results["many"].endswith("18, 19 and 10 more")


def test_every_value_of_a_list_is_checked(results: dict[str, Any]) -> None:
    fine, wrong = results["lists"]
    assert fine == ""
    assert wrong == "`seed` is 4; it takes a whole number from 0 to 3"


@pytest.mark.parametrize(
    ("entered", "prefix"),
    [
        ("", "difflora"),
        ("  ", "difflora"),
        ("people/", "people/difflora"),
        ("a\\b", "a/b"),
        ("Łukasz %year%", "Łukasz %year%"),
        ("conny", "conny"),
        ("n" * 236, "n" * 236),
    ],
)
def test_portable_names_are_used(results: dict[str, Any], entered: str, prefix: str) -> None:
    assert results["names"][entered] == prefix


@pytest.mark.parametrize(
    ("entered", "message"),
    [
        ("n" * 237, "has 237 bytes, of which at most 236 fit: choose a shorter name"),
        ("é" * 118 + "n", "has 237 bytes"),
        ("d" * 256 + "/x", "has 256 bytes, of which at most 255 fit"),
        ("con", "'con' is the name of a device on Windows: choose another name"),
        ("COM1/x", "'COM1' is the name of a device"),
        ("NUL.txt", "'NUL.txt' is the name of a device"),
        ("a:b", "'a:b' contains ':', which file names cannot have on every system: use letters"),
        ("a\nb", r"contains '\n'"),
        ("\ud800", r"contains '\ud800'"),
        ("../x", "'..' ends with a period or a space: leave it out"),
        ("x/..", "'..' ends with a period"),
        (".", "'.' ends with a period"),
        ("/etc/x", "'' is no folder: leave out a / at the start and double ones"),
        ("a//b", "'' is no folder"),
        ("x.", "'x.' ends with a period"),
        ("x /y", "'x ' ends with a period or a space"),
    ],
)
def test_other_names_are_errors(results: dict[str, Any], entered: str, message: str) -> None:
    assert results["names"][entered].startswith("error: `filename_prefix` is ")
    assert message in results["names"][entered]


def test_a_damaged_image_encoder_is_named(results: dict[str, Any]) -> None:
    weights, cut, empty, kind, size, other, lacking = results["clip vision"]
    assert "clip/model.safetensors is not a safetensors file: it is a Git LFS pointer" in weights
    assert "clip/config.json is not JSON" in cut
    assert "clip is not a CLIP vision model as transformers saves it: 'num_hidden_layers' is missing" in empty
    assert "clip/config.json is of a model of type 'resnet', ComfyUI knows clip_vision_model" in kind
    assert "clip is not a CLIP vision model as transformers saves it: " in size
    assert "size mismatch for visual_projection.weight" in size
    assert "clip/preprocessor_config.json is [], expected a JSON object" in other
    assert "'image_mean' is missing" in lacking


def test_the_image_encoder_of_a_whole_clip_is_loaded(results: dict[str, Any]) -> None:
    """OpenAI's clip-vit-large-patch14 is published so."""
    assert results["whole clip"]


def test_shared_and_plain_alphas_are_saved(results: dict[str, Any]) -> None:
    same = ["torch.float32 2.0", "torch.float32 2.0", "6"]  # six tensors, each with memory of its own
    assert results["alphas"] == {"one tensor": same, "numbers": same}
