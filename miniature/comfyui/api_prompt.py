"""A workflow as the browser saves it, converted into the API format that the server runs."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from training.comfyui_client import Prompt

BROWSER_ONLY = {"Note", "MarkdownNote"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
MUTED, BYPASSED = 2, 4
INPUT_NODE, OUTPUT_NODE = -10, -20
"""The browser's ids for the two ends of a subgraph."""
LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
"""Of a link in a subgraph; other links are lists of these values."""


class ApiPrompt:
    """A prompt whose nodes are addressed by title."""

    def __init__(self, prompt: Prompt) -> None:
        """Wrap a prompt; nodes that are addressed need a `_meta.title` of their own."""
        self.prompt = prompt

    @classmethod
    def load(cls, path: Path, object_info: Mapping[str, Any]) -> "ApiPrompt":
        """Read a workflow file of the browser (version 0.4)."""
        return cls(to_prompt(json.loads(path.read_text(encoding="utf-8")), object_info))

    def copy(self) -> "ApiPrompt":
        """Return a prompt that can be changed without changing this one."""
        return ApiPrompt(copy.deepcopy(self.prompt))

    def id(self, title: str) -> str:
        """Return the id of the node with this title.

        Raises:
            KeyError: None or several have it.
        """
        found = [key for key, node in self.prompt.items() if node["_meta"]["title"] == title]
        if len(found) != 1:
            titles = sorted(node["_meta"]["title"] for node in self.prompt.values())
            raise KeyError(f"{len(found)} nodes are titled {title!r}; there are {titles}")
        return found[0]

    def set(self, title: str, **inputs: Any) -> "ApiPrompt":
        """Set inputs of a node; a value from `output` makes a link. Returns the prompt itself."""
        node = self.prompt[self.id(title)]
        node["inputs"] |= inputs
        return self

    def output(self, title: str, slot: int = 0) -> list[Any]:
        """Return a link to an output of a node, for use as an input."""
        return [self.id(title), slot]

    def add(self, title: str, class_type: str, **inputs: Any) -> "ApiPrompt":
        """Add a node. Returns the prompt itself."""
        self.prompt[f"added {title}"] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}
        return self

    def only(self, *titles: str) -> "ApiPrompt":
        """Return a prompt of these nodes and everything they depend on."""
        needed: set[str] = set()
        waiting = [self.id(title) for title in titles]
        while waiting:
            key = waiting.pop()
            if key not in needed:
                needed.add(key)
                waiting += [value[0] for value in self.prompt[key]["inputs"].values() if isinstance(value, list)]
        return ApiPrompt({key: copy.deepcopy(node) for key, node in self.prompt.items() if key in needed})


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """Convert a workflow of the browser into a prompt.

    Args:
        workflow: Version 0.4: `nodes` with `widgets_values` by position, `links` as lists, and subgraphs. A node of a
            subgraph gets the id `5:3`, that of the subgraph's node before its own.
        object_info: The server's description of its nodes, which says what those positions mean.

    Raises:
        ValueError: The server does not know a node, a node is bypassed, or has more or fewer values than widgets.
    """
    subgraphs = {definition["id"]: definition for definition in workflow.get("definitions", {}).get("subgraphs", ())}
    prompt: Prompt = {}
    for key, node, graph in _Graph(workflow, subgraphs).all_nodes():
        if node.get("mode") == BYPASSED:
            raise ValueError(f"node {key} ({node['type']}) is bypassed, which only the browser can resolve")
        if node["type"] not in object_info:
            raise ValueError(f"node {key}: the server has no node class {node['type']!r}; is its pack installed?")
        inputs = _widget_values(node, object_info[node["type"]])
        sources = {slot["name"]: graph.source(slot.get("link")) for slot in node["inputs"]}
        inputs |= {name: source for name, source in sources.items() if source is not None}
        title = node.get("title") or object_info[node["type"]]["display_name"]
        prompt[key] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


class _Graph:
    """A workflow, or a subgraph at the place where a node stands for it."""

    def __init__(
        self,
        graph: Mapping[str, Any],
        subgraphs: Mapping[str, Any],
        prefix: str = "",
        given: Sequence[list[Any] | None] = (),
    ) -> None:
        self.nodes = {node["id"]: node for node in graph["nodes"]}
        self.links = [
            [link[name] for name in LINK_FIELDS] if isinstance(link, Mapping) else link for link in graph["links"]
        ]
        self.subgraphs, self.prefix, self.given = subgraphs, prefix, given

    @cached_property
    def inner(self) -> dict[int, "_Graph"]:
        """The subgraphs among the nodes, by the id of their node."""
        return {
            number: _Graph(
                self.subgraphs[node["type"]],
                self.subgraphs,
                f"{self.prefix}{number}:",
                [self.source(slot.get("link")) for slot in node["inputs"]],
            )
            for number, node in self.nodes.items()
            if node["type"] in self.subgraphs
        }

    def all_nodes(self) -> Iterator[tuple[str, Mapping[str, Any], "_Graph"]]:
        """Nodes that the server runs, those inside of subgraphs too: id, node, and the graph that it is in."""
        for number, node in self.nodes.items():
            if node["type"] in BROWSER_ONLY or node.get("mode") == MUTED:
                continue
            if node["type"] in self.subgraphs:
                yield from self.inner[number].all_nodes()
            else:
                yield f"{self.prefix}{number}", node, self

    def source(self, link: int | None) -> list[Any] | None:
        """Where a link comes from, as in a prompt: id of a node, and the position of its output."""
        for number, node, slot, *_ in self.links:
            if number != link:
                continue
            if node == INPUT_NODE:
                return self.given[slot]
            if self.nodes[node]["type"] in self.subgraphs:
                return self.inner[node].output(slot)
            return [f"{self.prefix}{node}", slot]
        return None

    def output(self, slot: int) -> list[Any] | None:
        """Where an output of the subgraph comes from."""
        return next(self.source(link[0]) for link in self.links if link[3:5] == [OUTPUT_NODE, slot])


def _widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    names = list(widget_names(info))
    values = node.get("widgets_values", [])
    if len(values) != len(names):
        raise ValueError(
            f"node {node['id']} ({node['type']}): {len(values)} widget values for {len(names)} widgets {names}"
        )
    return {name: value for name, value in zip(names, values, strict=True) if name is not None}


def widget_names(info: Mapping[str, Any]) -> Iterator[str | None]:
    """Names of a node's widgets by position; None for those that exist in the browser alone."""
    for kind in ("required", "optional"):
        for name in info["input_order"].get(kind, ()):
            form, options = (*info["input"][kind][name], {})[:2]
            if not (isinstance(form, list) or form in WIDGET_TYPES) or options.get("forceInput"):
                continue
            yield name
            if options.get("control_after_generate") or options.get("image_upload"):
                yield None  # "fixed" or "randomize" behind a seed; the upload button behind an image
