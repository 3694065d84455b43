"""Notes of the example workflows: what a user has to know before changing them."""

import json

import pytest

from miniature.comfyui.workflows import FOLDER, WORKFLOWS


def notes(name: str) -> dict[str, str]:
    """Texts of a workflow's notes by their titles."""
    nodes = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    return {node["title"]: node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_workflow_says_what_to_change_for_sdxl(name):
    text = notes(name)["With SDXL"]
    assert all(what in text for what in ("the loaders", "1024 × 1024", "1 in *Enlarge*"))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_batch_of_pictures_comes_with_what_it_does_to_their_shapes(name):
    nodes = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    batches = any(node["type"] == "ImageBatch" for node in nodes)
    assert ("cropped to the first one's" in "".join(notes(name).values())) == batches
