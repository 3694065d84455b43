"""Training inside ComfyUI: every factor is trained, or it is an error; the network is left as it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.comfyui.host import find_host


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script, base = Path(__file__).with_name("refine_weights.py"), tmp_path_factory.mktemp("base")
    command = [sys.executable, str(script), str(find_host()), str(base)]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


NONE_LEFT = [[0, False]] * 3
"""What `weight_function` is at first: no functions, and the empty list of the class."""


def test_weights_moved_outside_of_inference_mode_can_be_trained_with(results: dict[str, Any]) -> None:
    """They still do not track versions, though `is_inference` is False."""
    assert results["moved"] == ["4 gradients", NONE_LEFT]
    assert results["gradients of the network"] == 0


def test_functions_of_others_are_kept(results: dict[str, Any]) -> None:
    assert results["functions of others"] == ["4 gradients", [[0, False], [0, False], [1, True]]]


def test_weight_that_the_host_cannot_change_is_an_error(results: dict[str, Any]) -> None:
    message, functions = results["layer of torch"]
    assert "at 1 of 2 weights, first diffusion_model.0.weight" in message
    assert functions == NONE_LEFT


def test_factor_without_a_gradient_is_an_error(results: dict[str, Any]) -> None:
    assert "1 of 4 factors of the LoRA received no gradient, first lora_unet_3.lora_up.weight" in results["no gradient"]


def test_model_without_discrete_timesteps_is_an_error(results: dict[str, Any]) -> None:
    """Playground v2.5 and CosXL have SDXL's layers, and any noise level."""
    assert results["discrete"] == ""
    assert "its sampling is ComfyUI's ModelSamplingContinuousEDM, EDM" in results["continuous"]
