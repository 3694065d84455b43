"""The images of docs/workflows.md are small, and the page shows every workflow."""

import io

import numpy as np
import pytest
from PIL import Image

from miniature.comfyui.workflows import WORKFLOWS
from miniature.demo.stills import IMAGES, MAX_BYTES, PAGE, small_jpeg

MAX_TOTAL = 1_500_000
"""Bytes of all images, which are part of every clone."""


def test_quality_is_lowered_until_an_image_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    best = small_jpeg(image)
    monkeypatch.setattr("miniature.demo.stills.MAX_BYTES", 8000)
    small = small_jpeg(image)
    assert len(small) <= 8000 < len(best)
    assert Image.open(io.BytesIO(small)).size == (128, 128)
    monkeypatch.setattr("miniature.demo.stills.MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"128 × 128 pixels has .* expected at most 100: make it smaller"):
        small_jpeg(image)


def test_every_workflow_is_shown_and_no_other() -> None:
    files = {PAGE.parent / IMAGES / f"{name}_{state}.jpg" for name in WORKFLOWS for state in ("opened", "run")}
    assert set((PAGE.parent / IMAGES).iterdir()) == files
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= MAX_BYTES
    assert sum(sizes) <= MAX_TOTAL
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"]({file.relative_to(PAGE.parent).as_posix()})" in page for file in files)
