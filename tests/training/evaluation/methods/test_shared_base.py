"""What images of the shared base model depend on."""

import json
from pathlib import Path

from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS
from tests.training.evaluation.prepared_settings import settings_in
from training.evaluation.methods.shared_base import SharedBase


def test_another_scheduler_makes_other_images(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    export_diffusers(WEIGHTS, settings.base, find_tokenizer())
    before = SharedBase(settings, "cpu").fingerprint
    path = settings.base / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "timestep_spacing": "linspace"}))
    after = SharedBase(settings, "cpu").fingerprint
    assert {name for name in before if before[name] != after[name]} == {"base model's scheduler"}
