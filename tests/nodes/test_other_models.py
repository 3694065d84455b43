"""A full-size LoRA for SDXL on full-size models: SDXL gets all of its modules, other models are errors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.comfyui.host import find_host


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Apply LoRA returned or raised, by model and strictness."""
    script, base = Path(__file__).with_name("other_models.py"), tmp_path_factory.mktemp("base")
    command = [sys.executable, str(script), str(find_host()), str(base)]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_module_of_sdxl_is_patched(results: dict[str, Any]) -> None:
    assert results["SDXL True"] == results["SDXL False"] == "560/560"


def test_every_module_of_a_packed_sdxl_is_patched(results: dict[str, str]) -> None:
    """ComfyUI-GGUF loads such ones; the state_dict holds bytes, the weight itself names its shape."""
    assert results["SDXL packed"] == "560/560"


@pytest.mark.parametrize(("model", "missing"), [("SDXLRefiner", 384), ("SD15", 496), ("SD3", 560), ("Flux", 560)])
def test_other_models_are_errors_with_count_and_first_module(results: dict[str, Any], model: str, missing: int) -> None:
    message = results[f"{model} True"]
    assert f"(ComfyUI's class {model}): the model lacks {missing} of the LoRA's 560 modules" in message
    assert "first lora_unet_down_blocks_" in message


@pytest.mark.parametrize("model", ["SDXLRefiner", "SD15"])
def test_modules_of_the_same_name_but_another_size_are_not_patched(results: dict[str, Any], model: str) -> None:
    """Names overlap between U-Nets: without a check of sizes, `strict` off would patch some and skip others."""
    assert "do not fit the model's weight" in results[f"{model} False"]


@pytest.mark.parametrize("model", ["SD3", "Flux"])
def test_nothing_to_patch_is_an_error_even_when_not_strict(results: dict[str, Any], model: str) -> None:
    assert "the model lacks 560" in results[f"{model} False"]


@pytest.mark.parametrize("model", ["SDXL", "SDXLRefiner", "SD15"])
def test_a_lora_can_be_beside_the_layers_of_a_u_net(results: dict[str, Any], model: str) -> None:
    assert results[f"{model} beside"] == "applied"


@pytest.mark.parametrize("model", ["SD3", "Flux"])
def test_beside_the_layers_of_other_networks_is_an_error(results: dict[str, Any], model: str) -> None:
    """ComfyUI calls no wrapper in SD3, which would have no LoRA, and one of other arguments in Flux."""
    message = results[f"{model} beside"]
    assert f"ComfyUI's class {model}: set `side` to both, and `bypass` off" in message


def test_the_shape_to_which_a_lora_enlarges_a_layer_may_be_of_floats(results: dict[str, Any]) -> None:
    """Save LoRA used to write it so; the core loader makes a list of it, and torch no tensor of such a shape."""
    assert results["enlarged"] == ["[0, 2]", "[0, 2]"]


def test_what_is_no_shape_of_the_layer_is_an_error(results: dict[str, Any]) -> None:
    broken, missing, *others = results["not enlarged"]
    assert "expected a weight's shape in whole numbers; the file is damaged" in broken
    assert "nan], expected a weight's shape" in missing
    assert len(others) == 2
    assert all("does not fit the model's" in message for message in others)


def test_factors_are_matrices_and_an_alpha_is_a_number(results: dict[str, Any]) -> None:
    alpha, up, empty, whole = results["damaged"]
    assert "has a tensor of shape (2,) in " in alpha
    assert alpha.endswith("to_q.alpha, expected one number; the file is damaged")
    assert "of shape () in " in up
    assert "of shape (4, 0) in " in empty
    assert empty.endswith("expected a matrix; the file is damaged")
    assert whole == "no error"
