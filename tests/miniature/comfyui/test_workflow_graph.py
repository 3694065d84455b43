"""Workflow files that are built in Python: read back, every value is where it was put."""

import json

import pytest

from miniature.comfyui.api_prompt import to_prompt
from miniature.comfyui.workflow_graph import YOURS, WorkflowGraph
from miniature.comfyui.workflow_subgraph import Subgraph

INFO = {
    "Load": {
        "display_name": "Load",
        "input": {"required": {"image": [["a.png", "b.png"], {"image_upload": True}]}},
        "input_order": {"required": ["image"]},
        "output": ["IMAGE", "MASK"],
        "output_name": ["IMAGE", "MASK"],
    },
    "Choose": {
        "display_name": "Choose",
        "input": {"required": {}},
        "input_order": {"required": []},
        "output": ["COMBO"],
        "output_name": ["kind"],
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
    graph.group("Pictures")
    image, _ = graph.add_yours("Load", "Your picture", image="b.png")
    graph.note("About", "# Hello")
    graph.group("Drawing")
    graph.add("Draw", "Pen", image=image, seed=7, kind="hard")
    graph.column()
    graph.add("Draw", "Brush", image=image, kind=graph.add("Choose", "Kind")[0])
    graph.save(path)
    return json.loads(path.read_text())


def test_read_back_every_value_is_where_it_was_put(tmp_path):
    prompt = to_prompt(draw(tmp_path / "w.json"), INFO)
    assert prompt["1"]["inputs"] == {"image": "b.png"}
    assert prompt["3"]["inputs"] == {"seed": 7, "kind": "hard", "amount": 0.5, "image": ["1", 0]}
    assert prompt["3"]["_meta"]["title"] == "Pen"
    assert prompt["5"]["inputs"] == {"seed": 0, "kind": ["4", 0], "amount": 0.5, "image": ["1", 0]}


def test_outputs_know_their_links(tmp_path):
    workflow = draw(tmp_path / "w.json")
    assert workflow["nodes"][0]["outputs"][0] == {"name": "IMAGE", "type": "IMAGE", "links": [1, 2]}
    assert workflow["links"][0] == [1, 1, 0, 3, 0, "IMAGE"]
    assert workflow["nodes"][2]["widgets_values"] == [7, "fixed", "hard", 0.5]


def test_same_workflow_same_file(tmp_path):
    assert draw(tmp_path / "w.json") == draw(tmp_path / "w.json")


def test_a_linked_widget_is_a_socket_too(tmp_path):
    """The browser finds the link at a socket that names the widget, whose value is still at its position."""
    brush = draw(tmp_path / "w.json")["nodes"][4]
    assert brush["inputs"][-1] == {"name": "kind", "type": "COMBO", "widget": {"name": "kind"}, "link": 3}
    assert brush["widgets_values"] == [0, "fixed", "", 0.5]


def test_what_the_user_changes_has_a_color_of_its_own(tmp_path):
    colors = [node.get("color") for node in draw(tmp_path / "w.json")["nodes"]]
    assert colors.count(YOURS["color"]) == 1
    assert colors[0] == YOURS["color"]


def test_unknown_input_is_named():
    with pytest.raises(ValueError, match=r"Load has no input \['color'\]; it has \['image'\]"):
        WorkflowGraph(INFO).add("Load", "Image", color=1)


def scribble():
    graph = Subgraph(INFO, name="Scribble", category="Pens", description="Draws.")
    image = graph.input("image", "IMAGE")
    graph.group("Inside")
    (drawn,) = graph.add("Draw", "Pen", image=image, seed=7)
    graph.expose("drawing", drawn)
    graph.show_widget(drawn, "seed")
    return graph


def test_subgraph_has_its_ends_where_they_were_put(tmp_path):
    graph = WorkflowGraph(INFO)
    graph.group("Blueprint")
    scribble().add_to(graph, "Scribble")
    graph.save(tmp_path / "Scribble.json")
    blueprint = json.loads((tmp_path / "Scribble.json").read_text())
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    assert (subgraph["name"], subgraph["category"], subgraph["description"]) == ("Scribble", "Pens", "Draws.")
    (node,) = blueprint["nodes"]
    assert node["type"] == subgraph["id"]
    assert node["properties"]["proxyWidgets"] == [["101", "seed"]]
    assert [slot["name"] for slot in node["inputs"]] == ["image"]
    into, out = subgraph["links"]
    assert (into["origin_id"], into["target_id"], into["target_slot"]) == (-10, 101, 0)
    assert (out["origin_id"], out["target_id"]) == (101, -20)
    assert subgraph["inputs"][0]["linkIds"] == [into["id"]]
    assert subgraph["outputs"][0]["linkIds"] == [out["id"]]
    assert subgraph["nodes"][0]["outputs"][0]["links"] == [out["id"]]


def test_nodes_of_a_subgraph_are_in_the_prompt(tmp_path):
    graph = WorkflowGraph(INFO)
    graph.group("All")
    image, _ = graph.add("Load", "Image", image="b.png")
    (drawn,) = scribble().add_to(graph, "Scribble", image=image)
    graph.add("Draw", "Pen again", image=drawn)
    graph.save(tmp_path / "w.json")
    prompt = to_prompt(json.loads((tmp_path / "w.json").read_text()), INFO)
    assert list(prompt) == ["1", "2:101", "3"]
    assert prompt["2:101"]["inputs"] == {"seed": 7, "kind": "soft", "amount": 0.5, "image": ["1", 0]}
    assert prompt["3"]["inputs"]["image"] == ["2:101", 0]
