"""Workflows with placeholders: what is filled, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.evaluation.methods.workflow_file import WorkflowFile

NODES: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{reference}"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "{reference_2}"}},
    "3": {"class_type": "Text", "inputs": {"text": "best photo, {prompt}, {a|b}", "other": ["1", 0], "n": 3}},
    "4": {
        "class_type": "Sampler",
        "inputs": {"seed": "{seed}", "negative": "{negative}"},
        "_meta": {"title": "Sample"},
    },
}


def write(folder: Path, values: object) -> Path:
    path = folder / "workflow.json"
    path.write_text(json.dumps(values) if not isinstance(values, str) else values)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_placeholders_are_filled(tmp_path: Path, wrapped: bool) -> None:
    workflow = WorkflowFile.read(write(tmp_path, {"prompt": NODES} if wrapped else NODES))
    assert workflow.placeholders == {"reference", "reference_2", "prompt", "seed", "negative"}
    assert workflow.references == 2
    values = {"reference": "a.png", "reference_2": "b.png", "prompt": "a {seed} man", "seed": 7, "negative": ""}
    filled = workflow.filled(values)
    assert filled["1"]["inputs"] == {"image": "a.png"}
    assert filled["3"]["inputs"] == {"text": "best photo, a {seed} man, {a|b}", "other": ["1", 0], "n": 3}
    assert filled["4"]["inputs"] == {"seed": 7, "negative": ""}
    assert workflow.nodes["4"]["inputs"]["seed"] == "{seed}", "the workflow itself was changed"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": [], "links": []}, r"as ComfyUI's page saves it; expected the API format: .*Export \(API\)"),
        ({}, "no workflow in API format"),
        ([1], "no workflow in API format"),
        ({"1": {"class_type": "X"}}, "no workflow in API format"),
        ("{", "is no JSON"),
        ({"1": {"class_type": "X", "inputs": {"text": "{prompt}"}}}, r"lacks \{seed\}"),
        ({"1": {"class_type": "X", "inputs": {}}}, r"lacks \{prompt\} and \{seed\}"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorkflowFile.read(write(tmp_path, values))


def test_unknown_classes_are_named(tmp_path: Path) -> None:
    workflow = WorkflowFile.read(write(tmp_path, NODES))
    workflow.check_classes({"LoadImage", "Text", "Sampler", "More"})
    with pytest.raises(RuntimeError, match="no node class Sampler, Text; install the pack"):
        workflow.check_classes({"LoadImage"})


def test_the_node_that_is_measured(tmp_path: Path) -> None:
    workflow = WorkflowFile.read(write(tmp_path, NODES))
    shown = {"images": [{"filename": "x.png"}]}
    assert workflow.output_node("", {"4": shown, "3": {"text": ["x"]}}) == "4"
    assert workflow.output_node("Sample", {"4": shown, "3": shown}) == "4"
    assert workflow.output_node("3", {"4": shown, "3": shown}) == "3"
    saved = {"images": [{"filename": "x.png", "type": "output"}]}
    assert workflow.output_node("", {"3": shown, "4": saved}) == "4"
    assert workflow.output_node("3", {"3": shown, "4": saved}) == "3"
    with pytest.raises(RuntimeError, match=r"3 \(without a title\), 4 \(Sample\); output_node has to name one"):
        workflow.output_node("", {"3": shown, "4": shown})
    with pytest.raises(RuntimeError, match="nodes that show images are none"):
        workflow.output_node("Sample", {})
