"""`python -m miniature serve`: the images that it provides, the line that it prints, and how it ends."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from PIL import Image

from miniature.comfyui.workflows import FOLDER
from miniature.demo.serve import FIRST_PAGE, example_images
from miniature.paths import ROOT


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


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signals on Windows")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_one_line_with_the_address_and_comfyui_ends_with_it(name: str) -> None:
    command = [sys.executable, "-m", "miniature", "serve", "--no-browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        assert address[0].endswith(FIRST_PAGE)
        assert requests.get(address[0], timeout=30).status_code == 200
        process.send_signal(getattr(signal, name))
        assert process.stdout.read() == ""
    assert process.returncode == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(address[0], timeout=30)
