"""The miniature's base model as SDXL's folder, which many trainers read."""

from pathlib import Path

import pytest

from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return export_diffusers(WEIGHTS, tmp_path_factory.mktemp("models") / "base", find_tokenizer())
