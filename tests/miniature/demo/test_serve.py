"""The images that `python -m miniature serve` provides, so that the workflows run as they are."""

import json
from pathlib import Path

from PIL import Image

from miniature.comfyui.workflows import FOLDER
from miniature.demo.serve import example_images


def test_every_image_that_a_workflow_names_is_there(tmp_path: Path) -> None:
    named = {
        node["widgets_values"][0]
        for path in FOLDER.glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        if node["type"] == "LoadImage"
    }
    assert named == {path.name for path in example_images(tmp_path)}


def test_own_images_are_kept(tmp_path: Path) -> None:
    mine = tmp_path / "reference_1.png"
    Image.new("RGB", (9, 9)).save(mine)
    before = mine.read_bytes()
    example_images(tmp_path)
    assert mine.read_bytes() == before
