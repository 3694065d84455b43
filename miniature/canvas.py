"""Workflows of ComfyUI's browser, written as Python: nodes by title, links by name, widgets by name.

A workflow file holds widget values by position alone, so that a new widget shifts everything behind it. Here positions
come from the server's own description of its nodes, and the files are written again when a node changes.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miniature.graph import widgets

COLOURS = ("#3f789e", "#8A5A2B", "#3f6e3a", "#6e3a5c")


@dataclass(frozen=True)
class Output:
    """One output of a node on the canvas."""

    node: int
    slot: int
    type: str


@dataclass
class Canvas:
    """A workflow being drawn. object_info: the server's description of its nodes."""

    object_info: Mapping[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, type: str, title: str, at: tuple[int, int], size: tuple[int, int], **inputs: Any
    ) -> tuple[Output, ...]:
        """Put a node on the canvas and return its outputs.

        at, size: pixels. inputs: by the node's own names; an Output makes a link, anything else is a widget's value.
        Widgets that are not named keep their default.

        Raises:
            KeyError: the server has no such node.
            ValueError: the node has no such input.
        """
        info = self.object_info[type]
        number = len(self.nodes) + 1
        forms = {name: form for kind in ("required", "optional") for name, form in info["input"].get(kind, {}).items()}
        if unknown := inputs.keys() - forms.keys():
            raise ValueError(f"{type} has no input {sorted(unknown)}; it has {sorted(forms)}")
        names = list(widgets(info))
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
        """Put a note in Markdown on the canvas."""
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

    def group(self, title: str, at: tuple[int, int], size: tuple[int, int]) -> None:
        """Draw a titled frame behind nodes."""
        number = len(self.groups)
        frame = {"id": number + 1, "title": title, "bounding": [*at, *size], "color": COLOURS[number % len(COLOURS)]}
        self.groups.append({**frame, "font_size": 24, "flags": {}})

    def save(self, path: Path) -> None:
        """Write the workflow; the same canvas always gives the same file."""
        for link in self.links:
            self.nodes[link[1] - 1]["outputs"][link[2]]["links"].append(link[0])
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
        path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _link(self, source: Any, node: int, slot: int) -> int | None:
        if not isinstance(source, Output):
            return None
        self.links.append([len(self.links) + 1, source.node, source.slot, node, slot, source.type])
        return len(self.links)


def _values(names: Sequence[str | None], forms: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Any]:
    values: list[Any] = []
    for before, name in zip([None, *names], names, strict=False):
        if name is None:  # what the browser puts behind a picture's or a seed's widget
            upload = before is not None and (forms[before] + [{}])[1].get("image_upload")
            values.append("image" if upload else "fixed")
        else:
            values.append(inputs[name] if name in inputs else _default(forms[name]))
    return values


def _default(form: Sequence[Any]) -> Any:
    kind, options = (*form, {})[:2]
    choices = kind if isinstance(kind, list) else options.get("options", [])
    return options.get("default", choices[0] if choices else "")
