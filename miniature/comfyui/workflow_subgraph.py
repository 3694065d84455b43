"""A subgraph: a workflow that is one node of another workflow, with inputs, outputs and widgets of nodes inside."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from .api_prompt import INPUT_NODE, LINK_FIELDS, OUTPUT_NODE
from .workflow_graph import YOURS, Output, WorkflowGraph
from .workflow_layout import GAP, arrange, newer_height, node_size

END_WIDTH = 140
"""Of the two ends, in pixels."""


@dataclass
class Subgraph(WorkflowGraph):
    """A subgraph that is being built."""

    name: str = ""
    """What its node is called."""
    category: str = ""
    """Where newer hosts list it."""
    description: str = ""
    """What they say about it."""
    first_id: int = 101
    inputs: list[tuple[str, str]] = field(default_factory=list)
    """Names and types."""
    outputs: list[tuple[str, str]] = field(default_factory=list)
    """Names and types."""
    widgets: list[tuple[str, str]] = field(default_factory=list)
    """Widgets of nodes inside that the subgraph's node shows: id of the node, name of the widget."""

    @property
    def identity(self) -> str:
        """The id under which nodes name the subgraph."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"subgraph {self.name}"))

    def input(self, name: str, type: str) -> Output:
        """Add an input."""
        self.inputs.append((name, type))
        return Output(INPUT_NODE, len(self.inputs) - 1, type)

    def expose(self, name: str, source: Output) -> None:
        """Make an output of a node an output of the subgraph."""
        self.link(source, OUTPUT_NODE, len(self.outputs))
        self.outputs.append((name, source.type))

    def show_widget(self, source: Output, name: str) -> None:
        """Show a widget of the node with this output on the subgraph's own node."""
        self.widgets.append((str(source.node), name))

    def add_to(self, graph: WorkflowGraph, title: str, /, **linked: Output) -> tuple[Output, ...]:
        """Add the subgraph to a workflow, as a node that the user changes, and return its outputs."""
        node = {
            "type": self.identity,
            "size": node_size("", len(self.inputs), len(self.outputs), [False] * len(self.widgets)),
            "title": title,
            "properties": {"proxyWidgets": [list(widget) for widget in self.widgets]},
            "widgets_values": [],
            **YOURS,
        }
        slots = [{"name": name, "type": form} for name, form in self.inputs]
        if all(known["id"] != self.identity for known in graph.subgraphs):
            graph.subgraphs.append(self._definition())
        outputs = graph.place(node, slots, linked, self.outputs)
        height = newer_height("", len(slots), len(outputs), len(self.widgets), badge=True)
        graph.groups[-1].newer_heights[graph.nodes[-1]["id"]] = height
        return outputs

    def _definition(self) -> dict[str, Any]:
        frames = arrange(self.groups)
        x, _, width, _ = frames[-1]["bounding"]
        links = [dict(zip(LINK_FIELDS, link, strict=True)) for link in self.links]
        return {
            "id": self.identity,
            "version": 1,
            "state": {
                "lastGroupId": len(frames),
                "lastNodeId": self.first_id + len(self.nodes) - 1,
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "category": self.category,
            "description": self.description,
            "inputNode": _end(INPUT_NODE, -GAP - END_WIDTH, len(self.inputs)),
            "outputNode": _end(OUTPUT_NODE, x + width + GAP, len(self.outputs)),
            "inputs": self._slots(self.inputs, INPUT_NODE),
            "outputs": self._slots(self.outputs, OUTPUT_NODE),
            "widgets": [],
            "nodes": self.nodes,
            "groups": frames,
            "links": links,
            "extra": {},
        }

    def _slots(self, slots: list[tuple[str, str]], node: int) -> list[dict[str, Any]]:
        end = 1 if node == INPUT_NODE else 3
        return [
            {
                "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{node} {slot} {name}")),
                "name": name,
                "type": type,
                "linkIds": [link[0] for link in self.links if link[end : end + 2] == [node, slot]],
            }
            for slot, (name, type) in enumerate(slots)
        ]


def _end(number: int, x: int, slots: int) -> dict[str, Any]:
    return {"id": number, "bounding": [x, 0, END_WIDTH, 40 + 20 * slots]}
