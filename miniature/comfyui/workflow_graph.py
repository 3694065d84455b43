"""Workflow files of ComfyUI's browser, built in Python: nodes by title, links and widgets by name.

A workflow file holds widget values by position alone, so that a new widget shifts everything behind it. Here positions
come from the server's own description of its nodes, and the files are written again when a node changes.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difflora_core.files import replacing

from .api_prompt import widget_names

INPUT_NODE, OUTPUT_NODE = -10, -20
"""The browser's ids for the two ends of a subgraph."""
COLORS = ("#3f789e", "#8A5A2B", "#3f6e3a", "#6e3a5c")


@dataclass(frozen=True)
class Output:
    """One output of a node."""

    node: int
    """Id of the node."""
    slot: int
    """Position among its outputs."""
    type: str
    """Type of the socket, for example IMAGE."""


@dataclass
class WorkflowGraph:
    """A workflow that is being built."""

    object_info: Mapping[str, Any]
    """The server's description of its nodes."""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    """As in the file."""
    links: list[list[Any]] = field(default_factory=list)
    """Each [id, source node, source slot, target node, target slot, type]."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """Frames behind nodes, as in the file."""
    inputs: list[tuple[str, str]] = field(default_factory=list)
    """Names and types of a subgraph's inputs."""
    outputs: list[tuple[str, str]] = field(default_factory=list)
    """Names and types of a subgraph's outputs."""

    def add(
        self, type: str, title: str, at: tuple[int, int], size: tuple[int, int], **inputs: Any
    ) -> tuple[Output, ...]:
        """Add a node and return its outputs.

        Args:
            type: Class of the node.
            title: What the browser shows above it.
            at: Position in pixels.
            size: Width and height in pixels.
            inputs: By the node's own names: an Output makes a link, anything else is the value of a widget. Widgets
                that are not named keep their default.

        Raises:
            KeyError: The server has no such node.
            ValueError: The node has no such input.
        """
        info = self.object_info[type]
        number = len(self.nodes) + 1
        forms = {name: form for kind in ("required", "optional") for name, form in info["input"].get(kind, {}).items()}
        if unknown := inputs.keys() - forms.keys():
            raise ValueError(f"{type} has no input {sorted(unknown)}; it has {sorted(forms)}")
        names = list(widget_names(info))
        sockets = [name for name in forms if name not in names]
        outputs = tuple(Output(number, slot, form) for slot, form in enumerate(info["output"]))
        self.nodes.append(
            {
                "id": number,
                "type": type,
                "pos": list(at),
                "size": list(size),
                "flags": {},
                "order": number - 1,
                "mode": 0,
                "inputs": [
                    {"name": name, "type": forms[name][0], "link": self._link(inputs.get(name), number, slot)}
                    for slot, name in enumerate(sockets)
                ],
                "outputs": [
                    {"name": name, "type": form, "links": []}
                    for name, form in zip(info["output_name"], info["output"], strict=True)
                ],
                "title": title,
                "properties": {"Node name for S&R": type},
                "widgets_values": _values(names, forms, inputs),
            }
        )
        return outputs

    def note(self, title: str, at: tuple[int, int], size: tuple[int, int], text: str) -> None:
        """Add a note in Markdown."""
        self.nodes.append(
            {
                "id": len(self.nodes) + 1,
                "type": "MarkdownNote",
                "pos": list(at),
                "size": list(size),
                "flags": {},
                "order": len(self.nodes),
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "title": title,
                "properties": {},
                "widgets_values": [text],
                "color": "#432",
                "bgcolor": "#653",
            }
        )

    def input(self, name: str, type: str) -> Output:
        """Add an input of the subgraph that this workflow is to become."""
        self.inputs.append((name, type))
        return Output(INPUT_NODE, len(self.inputs) - 1, type)

    def expose(self, name: str, source: Output) -> None:
        """Make an output of a node an output of the subgraph."""
        self._link(source, OUTPUT_NODE, len(self.outputs))
        self.outputs.append((name, source.type))

    def group(self, title: str, at: tuple[int, int], size: tuple[int, int]) -> None:
        """Add a titled frame behind nodes."""
        number = len(self.groups)
        frame = {"id": number + 1, "title": title, "bounding": [*at, *size], "color": COLORS[number % len(COLORS)]}
        self.groups.append({**frame, "font_size": 24, "flags": {}})

    def save(self, path: Path) -> None:
        """Write the workflow file; the same workflow always gives the same file."""
        self._list_links_in_outputs()
        workflow = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, path.stem)),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [120, 260]}},
            "version": 0.4,
        }
        _write(path, workflow)

    def save_subgraph(self, path: Path, category: str, description: str) -> None:
        """Write a subgraph blueprint of the file's name: one node with the `input`s and the `expose`d outputs.

        Args:
            path: The file.
            category: Where newer hosts list the blueprint.
            description: What they say about it.
        """
        self._list_links_in_outputs()
        name, identity = path.stem, str(uuid.uuid5(uuid.NAMESPACE_URL, f"subgraph {path.stem}"))
        right = max(node["pos"][0] + node["size"][0] for node in self.nodes)
        links = [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
            for link in self.links
        ]
        subgraph = {
            "id": identity,
            "version": 1,
            "state": {
                "lastGroupId": len(self.groups),
                "lastNodeId": len(self.nodes),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": name,
            "category": category,
            "description": description,
            "inputNode": {"id": INPUT_NODE, "bounding": [-200, 90, 140, 40 + 20 * len(self.inputs)]},
            "outputNode": {"id": OUTPUT_NODE, "bounding": [right + 60, 90, 140, 40 + 20 * len(self.outputs)]},
            "inputs": self._slots(self.inputs, INPUT_NODE),
            "outputs": self._slots(self.outputs, OUTPUT_NODE),
            "widgets": [],
            "nodes": self.nodes,
            "groups": self.groups,
            "links": links,
            "extra": {},
        }
        node = {
            "id": 1,
            "type": identity,
            "pos": [0, 0],
            "size": [280, 60 + 20 * max(len(self.inputs), len(self.outputs))],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [{"name": name, "type": type, "link": None} for name, type in self.inputs],
            "outputs": [{"name": name, "type": type, "links": None} for name, type in self.outputs],
            "title": name,
            "properties": {},
            "widgets_values": [],
        }
        blueprint = {"id": identity, "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": []}
        _write(path, {**blueprint, "version": 0.4, "definitions": {"subgraphs": [subgraph]}})

    def _slots(self, slots: Sequence[tuple[str, str]], node: int) -> list[dict[str, Any]]:
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

    def _list_links_in_outputs(self) -> None:
        for number, source, slot, *_ in self.links:
            if source != INPUT_NODE:
                self.nodes[source - 1]["outputs"][slot]["links"].append(number)

    def _link(self, source: Any, node: int, slot: int) -> int | None:
        if not isinstance(source, Output):
            return None
        self.links.append([len(self.links) + 1, source.node, source.slot, node, slot, source.type])
        return len(self.links)


def _write(path: Path, workflow: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _values(names: Sequence[str | None], forms: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Any]:
    values: list[Any] = []
    for before, name in zip([None, *names], names, strict=False):
        if name is None:  # what the browser puts behind the widget of an image or a seed
            upload = before is not None and (forms[before] + [{}])[1].get("image_upload")
            values.append("image" if upload else "fixed")
        else:
            values.append(inputs[name] if name in inputs else _default(forms[name]))
    return values


def _default(form: Sequence[Any]) -> Any:
    kind, options = (*form, {})[:2]
    choices = kind if isinstance(kind, list) else options.get("options", [])
    return options.get("default", choices[0] if choices else "")
