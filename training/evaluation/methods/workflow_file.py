"""A workflow in ComfyUI's API format, in whose texts placeholders stand for a person, a prompt and a seed.

{reference}, {reference_2} …   images that the server has got, as LoadImage takes them
{prompt}, {negative}           texts, also inside longer ones
{seed}                         a number; it stands alone
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.comfyui_client import Prompt

PLACEHOLDER = re.compile(r"\{(reference(?:_[1-9]\d*)?|prompt|negative|seed)\}")
REQUIRED = ("prompt", "seed")
MAX_BYTES = 20_000_000
"""Of a workflow's file: far more than any has."""
HOW_TO_EXPORT = "open it in ComfyUI and save it by Workflow → Export (API)"


@dataclass(frozen=True)
class WorkflowFile:
    """A workflow with placeholders."""

    path: Path
    """The file."""
    nodes: Prompt
    """Node id → class_type, inputs and, as ComfyUI exports it, _meta."""

    @classmethod
    def read(cls, path: Path) -> "WorkflowFile":
        """Read and check a file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no workflow, is in the browser's format, or lacks a placeholder.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no workflow {path}")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes, which no workflow has")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
        workflow = cls(path, _checked(values, path))
        if missing := [name for name in REQUIRED if name not in workflow.placeholders]:
            raise ValueError(
                f"{path} lacks {' and '.join(f'{{{name}}}' for name in missing)}: write it in place of the value, so "
                "that each image has its own"
            )
        return workflow

    @property
    def placeholders(self) -> set[str]:
        """Names of all placeholders."""
        texts = (value for node in self.nodes.values() for value in node["inputs"].values() if isinstance(value, str))
        return {name for text in texts for name in PLACEHOLDER.findall(text)}

    @property
    def references(self) -> int:
        """How many references it needs."""
        numbers = (name.partition("_")[2] or "1" for name in self.placeholders if name.startswith("reference"))
        return max(map(int, numbers), default=0)

    def check_classes(self, known: Collection[str]) -> None:
        """Check that a server knows all node classes.

        Raises:
            RuntimeError: It does not; they are named.
        """
        if unknown := sorted({node["class_type"] for node in self.nodes.values()} - set(known)):
            raise RuntimeError(
                f"{self.path}: the server has no node class {', '.join(unknown)}; install the pack that brings it, and "
                "start the server again"
            )

    def filled(self, values: Mapping[str, str | int]) -> Prompt:
        """Put values in place of placeholders.

        Args:
            values: By name of the placeholder, all that the workflow has.
        """
        return {
            key: {**node, "inputs": {name: _fill(value, values) for name, value in node["inputs"].items()}}
            for key, node in self.nodes.items()
        }

    def output_node(self, wanted: str, outputs: Mapping[str, Mapping[str, Any]]) -> str:
        """Choose the node whose image is measured.

        Args:
            wanted: Its title or number; empty: the only one that saves images, or the only one that shows any.
            outputs: What nodes of a finished prompt showed, by number.

        Raises:
            RuntimeError: There is none, or it is not clear which.
        """
        shown = [key for key, output in outputs.items() if output.get("images")]
        saved = [key for key in shown if outputs[key]["images"][0].get("type") == "output"]
        if not wanted and len(saved) == 1:
            return saved[0]
        titles = {key: self.nodes.get(key, {}).get("_meta", {}).get("title", "") for key in shown}
        chosen = [key for key in shown if wanted in ("", key, titles[key])]
        if len(chosen) != 1:
            listed = ", ".join(f"{key} ({titles[key] or 'without a title'})" for key in shown) or "none"
            asked = f"{len(chosen)} of them are {wanted!r}" if wanted else "output_node has to name one"
            raise RuntimeError(f"{self.path}: nodes that show images are {listed}; {asked}")
        return chosen[0]


def _checked(values: Any, path: Path) -> Prompt:
    if isinstance(values, dict) and "nodes" in values and "links" in values:
        raise ValueError(f"{path} is a workflow as ComfyUI's page saves it; expected the API format: {HOW_TO_EXPORT}")
    if isinstance(values, dict) and isinstance(values.get("prompt"), dict):
        values = values["prompt"]  # as it was posted to /prompt
    nodes_of = values.values() if isinstance(values, dict) else ()
    if not nodes_of or not all(
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        for node in nodes_of
    ):
        raise ValueError(f"{path} is no workflow in API format (nodes with class_type and inputs): {HOW_TO_EXPORT}")
    return values


def _fill(value: Any, values: Mapping[str, str | int]) -> Any:
    if not isinstance(value, str):
        return value
    alone = PLACEHOLDER.fullmatch(value)
    return values[alone[1]] if alone else PLACEHOLDER.sub(lambda match: str(values[match[1]]), value)
