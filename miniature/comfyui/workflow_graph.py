"""Workflow files of ComfyUI's browser, built in Python: nodes by title, links and widgets by name.

A workflow file holds widget values by position alone, so that a new widget shifts everything behind it. Here positions
come from the server's own description of its nodes, and the files are written again when a node changes. Sizes and
places are computed from what the nodes hold.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difflora_core.files import replacing

from .api_prompt import widget_names
from .workflow_layout import Group, Node, arrange, newer_height, node_size, note_size, view

YOURS = {"color": "#143d29", "bgcolor": "#226044"}
"""Color of the nodes that a user changes."""
NOTE_COLORS = {"color": "#432", "bgcolor": "#653"}


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
    """A workflow that is being built, in columns from left to right."""

    object_info: Mapping[str, Any]
    """The server's description of its nodes."""
    nodes: list[Node] = field(default_factory=list)
    """As in the file."""
    links: list[list[Any]] = field(default_factory=list)
    """Each [id, source node, source slot, target node, target slot, type]."""
    groups: list[Group] = field(default_factory=list)
    """Frames with their nodes; new nodes come below the last column's."""
    subgraphs: list[dict[str, Any]] = field(default_factory=list)
    """Definitions of the subgraphs among the nodes, as in the file."""
    first_id: int = 1
    """Of the nodes; those of a subgraph have to be others than those around it."""

    def group(self, title: str) -> None:
        """Start a group to the right of the nodes that are there: a titled frame."""
        self.groups.append(Group(title))

    def column(self) -> None:
        """Start a column to the right, in the same group."""
        self.groups[-1].columns.append([])

    def add(self, type: str, title: str, /, **inputs: Any) -> tuple[Output, ...]:
        """Add a node and return its outputs.

        Args:
            type: Class of the node.
            title: What the browser shows above it.
            inputs: By the node's own names: an Output makes a link, anything else is the value of a widget. Widgets
                that are not named keep their default.

        Raises:
            KeyError: The server has no such node.
            ValueError: The node has no such input.
        """
        info = self.object_info[type]
        forms = {name: form for kind in ("required", "optional") for name, form in info["input"].get(kind, {}).items()}
        if unknown := inputs.keys() - forms.keys():
            raise ValueError(f"{type} has no input {sorted(unknown)}; it has {sorted(forms)}")
        names = list(widget_names(info))
        linked = {name: source for name, source in inputs.items() if isinstance(source, Output)}
        slots: list[dict[str, Any]] = [
            {"name": name, "type": forms[name][0]} for name in forms if name not in names
        ] + [
            {"name": name, "type": "COMBO" if _choices(forms[name]) else forms[name][0], "widget": {"name": name}}
            for name in names
            if name in linked
        ]
        fields = [name is not None and bool((forms[name] + [{}])[1].get("multiline")) for name in names]
        node = {
            "type": type,
            "size": node_size(type, len(slots), len(info["output"]), fields),
            "title": title,
            "properties": {"Node name for S&R": type},
            "widgets_values": _values(names, forms, inputs),
        }
        outputs = self.place(node, slots, linked, list(zip(info["output_name"], info["output"], strict=True)))
        sockets = sum("widget" not in slot for slot in slots)
        rows = sum(name is not None for name in names)  # what the browser adds has no row of its own there
        badge = info.get("experimental", False) or info.get("python_module", "").startswith("custom_nodes")
        self.groups[-1].newer_heights[self.nodes[-1]["id"]] = newer_height(type, sockets, len(outputs), rows, badge)
        return outputs

    def add_yours(self, type: str, title: str, /, **inputs: Any) -> tuple[Output, ...]:
        """Add a node that the user changes, see `add`."""
        outputs = self.add(type, title, **inputs)
        self.nodes[-1] |= YOURS
        return outputs

    def resize(self, width: int, height: int) -> None:
        """Give the node that was added last another size, in pixels."""
        self.nodes[-1]["size"] = [width, height]
        self.groups[-1].newer_heights[self.nodes[-1]["id"]] = height

    def to_top(self) -> None:
        """Move the node that was added last to the top of its column."""
        column = self.groups[-1].columns[-1]
        column.insert(0, column.pop())

    def note(self, title: str, text: str) -> None:
        """Add a note in Markdown."""
        described = {"title": title, "properties": {}, "widgets_values": [text]}
        self.place({"type": "MarkdownNote", "size": note_size(text), **described, **NOTE_COLORS}, [], {}, [])

    def place(
        self,
        node: Node,
        slots: Sequence[dict[str, Any]],
        linked: Mapping[str, Output],
        outputs: Sequence[tuple[str, str]],
    ) -> tuple[Output, ...]:
        """Add a node below the last one, and its links.

        Args:
            node: Its class, size, title and widgets, as in the file.
            slots: Its sockets: name and type.
            linked: What is linked to them, by name.
            outputs: Name and type of each.
        """
        number = self.first_id + len(self.nodes)
        links = [self.link(linked.get(slot["name"]), number, place) for place, slot in enumerate(slots)]
        self.nodes.append(
            {
                "id": number,
                "flags": {},
                "order": len(self.nodes),
                "mode": 0,
                "inputs": [slot | {"link": link} for slot, link in zip(slots, links, strict=True)],
                "outputs": [{"name": name, "type": form, "links": []} for name, form in outputs],
                **node,
            }
        )
        self.groups[-1].columns[-1].append(self.nodes[-1])
        return tuple(Output(number, slot, form) for slot, (_, form) in enumerate(outputs))

    def link(self, source: Output | None, node: int, slot: int) -> int | None:
        """Link an output to an input and return the link's id; without an output there is no link."""
        if source is None:
            return None
        self.links.append([len(self.links) + 1, source.node, source.slot, node, slot, source.type])
        if source.node >= self.first_id:
            self.nodes[source.node - self.first_id]["outputs"][source.slot]["links"].append(len(self.links))
        return len(self.links)

    def to_dict(self, name: str) -> dict[str, Any]:
        """Return the workflow as in a file of this name, after giving every node its place."""
        frames = arrange(self.groups)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
            "revision": 0,
            "last_node_id": self.first_id + len(self.nodes) - 1,
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": frames,
            **({"definitions": {"subgraphs": self.subgraphs}} if self.subgraphs else {}),
            "config": {},
            "extra": {"ds": view(frames)},
            "version": 0.4,
        }

    def save(self, path: Path) -> None:
        """Write the workflow file; the same workflow always gives the same file."""
        text = json.dumps(self.to_dict(path.stem), indent=1, ensure_ascii=False)
        with replacing(path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def _values(names: Sequence[str | None], forms: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Any]:
    values: list[Any] = []
    for before, name in zip([None, *names], names, strict=False):
        if name is None:  # what the browser puts behind the widget of an image or a seed
            upload = before is not None and (forms[before] + [{}])[1].get("image_upload")
            values.append("image" if upload else "fixed")
        elif isinstance(inputs.get(name), Output):
            values.append("")
        else:
            values.append(inputs[name] if name in inputs else _default(forms[name]))
    return values


def _default(form: Sequence[Any]) -> Any:
    choices = _choices(form)
    return (*form, {})[1].get("default", choices[0] if choices else "")


def _choices(form: Sequence[Any]) -> list[Any]:
    """Choices of a combo, whose type is their list or COMBO; none for other inputs."""
    kind, options = (*form, {})[:2]
    return kind if isinstance(kind, list) else options.get("options", [])
