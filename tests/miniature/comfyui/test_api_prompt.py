"""A workflow of the browser becomes a prompt of the server."""

from typing import Any

import pytest

from miniature.comfyui.api_prompt import ApiPrompt, to_prompt

INFO: dict[str, Any] = {
    "Load": {
        "display_name": "Load",
        "input": {"required": {"image": [["a.png"], {"image_upload": True}]}},
        "input_order": {"required": ["image"]},
    },
    "Sample": {
        "display_name": "Sample",
        "input": {
            "required": {
                "image": ["IMAGE", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "kind": ["COMBO", {"options": ["x", "y"]}],
            },
            "optional": {"strength": ["FLOAT", {}], "extra": ["IMAGE"]},
        },
        "input_order": {"required": ["image", "seed", "kind"], "optional": ["strength", "extra"]},
    },
}


def workflow() -> dict[str, Any]:
    inputs = [{"name": "image", "link": 9}, {"name": "strength", "link": None, "widget": {"name": "strength"}}]
    return {
        "nodes": [
            {"id": 1, "type": "Load", "inputs": [], "widgets_values": ["a.png", "image"]},
            {"id": 2, "type": "Sample", "title": "Mine", "inputs": inputs, "widgets_values": [7, "fixed", "y", 0.5]},
            {"id": 3, "type": "MarkdownNote", "inputs": [], "widgets_values": ["hello"]},
            {"id": 4, "type": "Unknown", "mode": 2, "inputs": [], "widgets_values": []},
        ],
        "links": [[9, 1, 0, 2, 0, "IMAGE"]],
    }


def test_values_links_and_titles() -> None:
    prompt = to_prompt(workflow(), INFO)
    assert prompt == {
        "1": {"class_type": "Load", "inputs": {"image": "a.png"}, "_meta": {"title": "Load"}},
        "2": {
            "class_type": "Sample",
            "inputs": {"seed": 7, "kind": "y", "strength": 0.5, "image": ["1", 0]},
            "_meta": {"title": "Mine"},
        },
    }


def test_a_missing_seed_control_is_an_error() -> None:
    """Left out, it would shift every later value by one without a word."""
    broken = workflow()
    del broken["nodes"][1]["widgets_values"][1]
    with pytest.raises(ValueError, match=r"node 2 \(Sample\): 3 widget values for 4 widgets"):
        to_prompt(broken, INFO)


def test_unknown_and_bypassed_nodes_are_errors() -> None:
    broken = workflow()
    broken["nodes"][3]["mode"] = 0
    with pytest.raises(ValueError, match="no node class 'Unknown'"):
        to_prompt(broken, INFO)
    broken["nodes"][3]["mode"] = 4
    with pytest.raises(ValueError, match="bypassed"):
        to_prompt(broken, INFO)


def test_nodes_by_title() -> None:
    prompt = ApiPrompt(to_prompt(workflow(), INFO))
    changed = prompt.copy().set("Mine", seed=8).add("Two", "Sample", image=prompt.output("Load"))
    assert prompt.prompt["2"]["inputs"]["seed"] == 7
    assert changed.prompt["2"]["inputs"]["seed"] == 8
    assert set(changed.only("Two").prompt) == {"1", changed.id("Two")}
    with pytest.raises(KeyError, match="0 nodes are titled 'Missing'"):
        prompt.id("Missing")
