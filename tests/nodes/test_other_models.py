"""A LoRA for SDXL, in full size, on models of full size: SDXL takes all of it, no other model takes any."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from miniature.comfyui.host import find_host


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Apply LoRA said, by model and strictness."""
    script, base = Path(__file__).with_name("other_models.py"), tmp_path_factory.mktemp("base")
    command = [sys.executable, str(script), str(find_host()), str(base)]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_sdxl_takes_every_module(answers: dict[str, str]) -> None:
    assert answers["SDXL True"] == answers["SDXL False"] == "560/560"


@pytest.mark.parametrize(("model", "lacking"), [("SDXLRefiner", 384), ("SD15", 496), ("SD3", 560), ("Flux", 560)])
def test_others_refuse_with_count_and_first_name(answers: dict[str, str], model: str, lacking: int) -> None:
    message = answers[f"{model} True"]
    assert f"which ComfyUI calls {model}: it lacks {lacking} of the LoRA's 560 modules" in message
    assert "the first of them lora_unet_down_blocks_" in message


@pytest.mark.parametrize("model", ["SDXLRefiner", "SD15"])
def test_modules_of_the_same_name_and_another_size_are_not_patched(answers: dict[str, str], model: str) -> None:
    """Names overlap between U-Nets, so that `strict` off would otherwise patch some and silently skip the others."""
    assert "do not make the model's weight" in answers[f"{model} False"]


@pytest.mark.parametrize("model", ["SD3", "Flux"])
def test_nothing_to_patch_is_an_error_even_when_not_strict(answers: dict[str, str], model: str) -> None:
    assert "it lacks 560" in answers[f"{model} False"]
