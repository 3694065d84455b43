"""Sizes and places of a workflow's nodes: columns from left to right, frames around them, and the view on all of it.

A file has the sizes of the page's classic nodes. The newer ones, "Nodes 2.0", take the room that they need, which is
left free below each node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GAP = 40
"""Pixels between nodes, and between frames."""
TITLE, GROUP_TITLE = 30, 40
"""Height in pixels of what stands above a node, and inside a frame above its nodes."""
PADDING = 20
"""Pixels between a frame and its nodes."""
WIDTH = 330
"""Of a node, in pixels."""
SLOT, WIDGET, TEXT_FIELD = 20, 24, 54
"""Height in pixels of an input or output, a widget, and the smallest field of several lines."""
TEXT, IMAGE = 64, 232
"""Height in pixels of two lines of text, and of an image, below a node's widgets."""
EXTRA_HEIGHT = {
    "CLIPTextEncode": 40,
    "DiffLoRAApply": TEXT,
    "DiffLoRAApplyStrengths": TEXT,
    "DiffLoRAEncodeFace": IMAGE,
    "DiffLoRALoad": 150,
    "DiffLoRAMixFeatures": TEXT,
    "DiffLoRASample": 80,
    "DiffLoRASave": TEXT,
    "LoadImage": IMAGE,
    "PreviewImage": IMAGE,
    "SaveImage": IMAGE,
}
"""Pixels below the widgets for the text or the image that a node shows after it has run."""
NEWER_BASE, NEWER_WIDGET, NEWER_BADGE, NEWER_GAP = 14, 28, 24, 16
"""Of the page's newer nodes (Nodes 2.0), which are higher, in pixels: a node without inputs and widgets, a widget, what
is at the bottom of some nodes, and the least that is left between nodes."""
LETTERS_PER_LINE, LINE = 54, 17
"""Of a note: letters in a line, and the line's height in pixels."""
GROUP_COLOR = "#a9bfd0"
VIEW = (75, 140, 1520, 790)
"""What the page's bars leave of a window of 1600 × 1000: x, y, width and height in pixels."""

Node = dict[str, Any]


@dataclass
class Group:
    """Nodes in columns with a titled frame behind them."""

    title: str
    """What stands above them."""
    columns: list[list[Node]] = field(default_factory=lambda: [[]])
    """Nodes as in the file, from top to bottom, the columns from left to right."""
    newer_heights: dict[int, int] = field(default_factory=dict)
    """Height in pixels by a node's id where the page's newer nodes need more than the file's."""


def node_size(type: str, inputs: int, outputs: int, widgets: Sequence[bool]) -> list[int]:
    """Size of a node in pixels: what the browser needs, and what the node shows below.

    Args:
        type: Class of the node.
        inputs: Number of its sockets.
        outputs: Number of its outputs.
        widgets: For each, whether it is a field of several lines.
    """
    fields = sum(TEXT_FIELD if several_lines else WIDGET for several_lines in widgets)
    height = SLOT * max(inputs, outputs, 1) + 6 + (fields + 8 if widgets else 0)
    return [WIDTH, height + EXTRA_HEIGHT.get(type, 0)]


def newer_height(type: str, inputs: int, outputs: int, widgets: int, badge: bool) -> int:
    """Height in pixels of one of the page's newer nodes.

    Args:
        type: Class of the node.
        inputs: Number of its sockets.
        outputs: Number of its outputs.
        widgets: Number of its widgets.
        badge: Whether it has something at the bottom: the name of its pack, "BETA", or a subgraph's button.
    """
    height = SLOT * max(inputs, outputs, 1) + NEWER_BASE + NEWER_WIDGET * widgets + (NEWER_BADGE if badge else 0)
    return height + EXTRA_HEIGHT.get(type, 0)


def note_size(text: str) -> list[int]:
    """Size in pixels of a note that shows all of a text in Markdown."""
    rows = sum(1 + len(line) // LETTERS_PER_LINE for line in text.split("\n"))
    return [WIDTH, 50 + LINE * rows]


def arrange(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Give every node its place; return the frames as in the file."""
    frames: list[dict[str, Any]] = []
    left = 0
    for number, group in enumerate(groups, start=1):
        x, bottom = left + PADDING, 0
        for column in group.columns:
            y = GROUP_TITLE + TITLE
            for node in column:
                node["pos"] = [x, y]
                height, newer = node["size"][1], group.newer_heights.get(node["id"], 0)
                bottom = max(bottom, y + height, y + newer + NEWER_GAP - PADDING)
                y += max(height + GAP, newer + NEWER_GAP) + TITLE
            x += max(node["size"][0] for node in column) + GAP
        right = x - GAP + PADDING
        bounding = [left, 0, right - left, bottom + PADDING]
        frame = {"id": number, "title": group.title, "bounding": bounding, "color": GROUP_COLOR}
        frames.append({**frame, "font_size": 24, "flags": {}})
        left = right + GAP
    return frames


def view(frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Zoom and offset with which all frames, side by side from the origin, are in view."""
    width = max(x + width for x, _, width, _ in (frame["bounding"] for frame in frames))
    height = max(frame["bounding"][3] for frame in frames)
    x, y, view_width, view_height = VIEW
    scale = min(1.0, view_width / width, view_height / height)
    return {"scale": round(scale, 4), "offset": [round(x / scale, 1), round(y / scale, 1)]}
