"""Workflow files that are built in Python: read back, every value is where it was put."""

import json

import pytest

from miniature.comfyui.api_prompt import to_prompt
from miniature.comfyui.workflow_graph import WorkflowGraph

INFO = {
    "Load": {
        "display_name": "Load",
        "input": {"required": {"image": [["a.png", "b.png"], {"image_upload": True}]}},
        "input_order": {"required": ["image"]},
        "output": ["IMAGE", "MASK"],
        "output_name": ["IMAGE", "MASK"],
    },
    "Draw": {
        "display_name": "Draw",
        "input": {
            "required": {
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "image": ["IMAGE", {}],
                "kind": ["COMBO", {"options": ["soft", "hard"]}],
            },
            "optional": {"more": ["IMAGE", {}], "amount": ["FLOAT", {"default": 0.5}]},
        },
        "input_order": {"required": ["seed", "image", "kind"], "optional": ["more", "amount"]},
        "output": ["IMAGE"],
        "output_name": ["drawn"],
    },
}


def draw(path):
    graph = WorkflowGraph(INFO)
    image, _ = graph.add("Load", "Image", (0, 0), (10, 10), image="b.png")
    graph.note("About", (0, 0), (10, 10), "# Hello")
    graph.add("Draw", "Pen", (0, 0), (10, 10), image=image, seed=7, kind="hard")
    graph.group("All", (0, 0), (100, 100))
    graph.save(path)
    return json.loads(path.read_text())


def test_read_back_every_value_is_where_it_was_put(tmp_path):
    prompt = to_prompt(draw(tmp_path / "w.json"), INFO)
    assert prompt["1"]["inputs"] == {"image": "b.png"}
    assert prompt["3"]["inputs"] == {"seed": 7, "kind": "hard", "amount": 0.5, "image": ["1", 0]}
    assert prompt["3"]["_meta"]["title"] == "Pen"


def test_outputs_know_their_links(tmp_path):
    workflow = draw(tmp_path / "w.json")
    assert workflow["nodes"][0]["outputs"][0] == {"name": "IMAGE", "type": "IMAGE", "links": [1]}
    assert workflow["links"] == [[1, 1, 0, 3, 0, "IMAGE"]]
    assert workflow["nodes"][2]["widgets_values"] == [7, "fixed", "hard", 0.5]


def test_same_workflow_same_file(tmp_path):
    assert draw(tmp_path / "w.json") == draw(tmp_path / "w.json")


def test_unknown_input_is_named():
    with pytest.raises(ValueError, match=r"Load has no input \['color'\]; it has \['image'\]"):
        WorkflowGraph(INFO).add("Load", "Image", (0, 0), (10, 10), color=1)


def test_subgraph_has_its_ends_where_they_were_put(tmp_path):
    graph = WorkflowGraph(INFO)
    image = graph.input("image", "IMAGE")
    (drawn,) = graph.add("Draw", "Pen", (0, 0), (10, 10), image=image)
    graph.expose("drawing", drawn)
    graph.save_subgraph(tmp_path / "Scribble.json", "Pens", "Draws.")
    blueprint = json.loads((tmp_path / "Scribble.json").read_text())
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    assert (subgraph["name"], subgraph["category"], subgraph["description"]) == ("Scribble", "Pens", "Draws.")
    assert blueprint["nodes"][0]["type"] == subgraph["id"]
    assert [slot["name"] for slot in blueprint["nodes"][0]["inputs"]] == ["image"]
    into, out = subgraph["links"]
    assert (into["origin_id"], into["target_id"], into["target_slot"]) == (-10, 1, 0)
    assert (out["origin_id"], out["target_id"]) == (1, -20)
    assert subgraph["inputs"][0]["linkIds"] == [into["id"]]
    assert subgraph["outputs"][0]["linkIds"] == [out["id"]]
    assert subgraph["nodes"][0]["outputs"][0]["links"] == [out["id"]]
