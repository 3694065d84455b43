"""Images of DiffLoRA are made again when its encoders have changed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from miniature.paths import DIFFLORA_CHECKPOINT, WEIGHTS
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods.loras.encoder_files import hash_encoders

SETTINGS = MethodSettings("difflora", DIFFLORA_CHECKPOINT)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Copies of the miniature's encoders."""
    for folder in ("insightface", "clip_vision"):
        shutil.copytree(WEIGHTS / folder, tmp_path / folder)
    return tmp_path


def test_the_same_encoders_elsewhere_are_no_change(models: Path) -> None:
    elsewhere = replace(
        SETTINGS, face_models=models / "insightface", image_encoder=models / "clip_vision" / "miniature"
    )
    assert hash_encoders(SETTINGS) == hash_encoders(elsewhere)
    beside = shutil.copy(DIFFLORA_CHECKPOINT, models / "clip_vision" / "copy.safetensors")
    assert hash_encoders(SETTINGS) == hash_encoders(MethodSettings("difflora", beside)), "found as personalize does"


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("insightface/models/miniature/recognizer.onnx", "face models"),
        ("clip_vision/miniature/config.json", "image encoder"),
    ],
)
def test_another_file_in_the_same_place_is_one(models: Path, file: str, changed: str) -> None:
    settings = replace(SETTINGS, face_models=models / "insightface", image_encoder=models / "clip_vision" / "miniature")
    before = hash_encoders(settings)
    with (models / file).open("ab") as opened:
        opened.write(b" ")
    after = hash_encoders(settings)
    assert {name for name in before if before[name] != after[name]} == {changed}
