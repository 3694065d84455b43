"""What the nodes' texts have to say; `tests/host/browser` compares them with the schemas."""

import json
from dataclasses import fields

import pytest

from difflora_core.denoiser.config import SamplingConfig
from miniature.paths import ROOT


@pytest.mark.parametrize(("language", "words"), [("en", "With settings custom:"), ("zh", "仅在设置为 custom 时有效：")])
def test_a_widget_without_effect_by_default_says_so(language, words):
    """Sample LoRA takes the settings that the checkpoint recommends, unless `settings` is custom."""
    texts = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    inputs = texts["DiffLoRASample"]["inputs"]
    names = {field.name for field in fields(SamplingConfig)} & inputs.keys()
    assert len(names) == 6
    assert all(inputs[name]["tooltip"].startswith(words) for name in names)
