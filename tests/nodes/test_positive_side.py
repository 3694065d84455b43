"""A LoRA on the positive prompt's side alone is what two separately computed sides give, and leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from difflora_core.lora.file_formats import save_lora
from miniature.base_model.checkpoint import checkpoint_path
from miniature.base_model.config import lora_layout
from miniature.comfyui.host import COMPANION, find_host
from miniature.paths import WEIGHTS
from miniature.personal.held_out_teachers import HeldOutTeachers

TOLERANCE = 1e-4
"""Relative, of float32: a branch beside a layer rounds otherwise than a patched weight, and guidance triples it."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Relative differences, by case."""
    base = tmp_path_factory.mktemp("base")
    save_lora(base / "teacher.safetensors", HeldOutTeachers.load().teachers[0].float(), lora_layout())
    script = Path(__file__).with_name("positive_side.py")
    checkpoint = checkpoint_path(WEIGHTS)
    command = [sys.executable, script, find_host(), base, COMPANION, checkpoint, base / "teacher.safetensors"]
    done = subprocess.run(list(map(str, command)), cwd=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["sides", "no guidance", "strengths", "second LoRA", "areas", "batch"])
def test_two_separately_computed_sides(found: dict[str, Any], case: str) -> None:
    assert found[case] < TOLERANCE


def test_a_lora_on_both_sides_is_another_image(found: dict[str, Any]) -> None:
    assert found["both sides differ"] > 100 * TOLERANCE


def test_the_model_is_as_before(found: dict[str, Any]) -> None:
    assert found["afterwards"] == 0


def test_eight_bit_weights_stay_as_they_are(found: dict[str, Any]) -> None:
    """Patched ones would be rounded to eight bits again, and lose part of the LoRA."""
    assert found["fp8"] < 0.5 * found["fp8 without"]


def test_bypass_is_the_same_without_a_change_of_weights(found: dict[str, Any]) -> None:
    assert found["bypass"] < TOLERANCE
    assert found["weights kept"]


def test_bypass_of_eight_bit_weights_is_patching_without_its_rounding(found: dict[str, Any]) -> None:
    """Beside a model in float32 whose weights were rounded once, and patched without rounding."""
    assert found["fp8 bypass"] < TOLERANCE
    assert found["fp8 patched"] > 100 * TOLERANCE


@pytest.mark.parametrize("case", ["compiled", "compiled before", "compiled bypass"])
def test_a_compiled_model_has_the_lora(found: dict[str, Any], case: str) -> None:
    """torch.compile takes no notice of hooks that come and go: the LoRA would be missing, or stay on both sides."""
    assert found[case] < TOLERANCE


def test_other_kinds_than_two_factors_are_refused(found: dict[str, Any]) -> None:
    assert "in another way than by two factors" in found["other kinds"]
    assert "set `side` to both, and `bypass` off" in found["other kinds"]


def test_tiles_in_one_batch_are_refused_on_the_positive_side_alone(found: dict[str, Any]) -> None:
    """Their order is the other node's own: taken for core's, the LoRA would act on one tile, for both prompts."""
    assert "a batch of 4 rows for 2 conditionings of 1 image," in found["tiles"]
    assert "set Apply LoRA's `side` to both" in found["tiles"]
    assert found["tiles, both sides"] == "no error"
