"""A sheet of line charts with a logarithmic horizontal axis, drawn with Pillow alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .lora_dataset.pictures import write_picture

PANEL = (560, 420)  # pixels
COLUMNS = 2
MARGIN = (54, 40, 20, 128)  # left, top, right, bottom, inside a panel
PAPER, INK, GREY, RULE = "#ffffff", "#202428", "#6a7078", "#e4e6e9"
COLOURS = ("#c0602c", "#2f6fb0", "#e0a878", "#8cb8dc")
TOP = 1.1  # of the vertical axis, from 0
DASH = 6  # pixels


@dataclass(frozen=True)
class Line:
    """points: (x, mean, least, largest), x ascending. colour: number in `COLOURS`. dashed: and with hollow points."""

    name: str
    colour: int
    dashed: bool
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart; axis: what its horizontal axis shows."""

    title: str
    axis: str
    lines: Sequence[Line]


def draw_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Write the sheet as a PNG file, whole or not at all."""
    rows = -(-len(panels) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * PANEL[0], rows * PANEL[1]), PAPER)
    for number, panel in enumerate(panels):
        sheet.paste(_panel(panel), (number % COLUMNS * PANEL[0], number // COLUMNS * PANEL[1]))
    write_picture(path, sheet)


def _panel(panel: Panel) -> Image.Image:
    image = Image.new("RGB", PANEL, PAPER)
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    left, top, right, bottom = MARGIN[0], MARGIN[1], PANEL[0] - MARGIN[2], PANEL[1] - MARGIN[3]
    xs = [point[0] for line in panel.lines for point in line.points]
    low, high = math.log2(min(xs)), math.log2(max(xs)) + 1e-9

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log2(x) - low) / (high - low)
        return left + across * (right - left), bottom - min(max(y, 0.0), TOP) / TOP * (bottom - top)

    draw.text((left, 10), panel.title, INK, large)
    for tenth in range(0, 11, 2):
        height = place(min(xs), tenth / 10)[1]
        draw.line((left, height, right, height), RULE)
        draw.text((left - 8, height), f"{tenth / 10:g}", GREY, small, anchor="rm")
    for power in range(math.ceil(low), math.floor(high) + 1):
        across = place(2.0**power, 0)[0]
        draw.line((across, bottom, across, bottom + 4), GREY)
        draw.text((across, bottom + 7), f"{2**power}", GREY, small, anchor="ma")
    draw.text(((left + right) // 2, bottom + 26), panel.axis, GREY, small, anchor="ma")
    for number, line in enumerate(panel.lines):
        _line(draw, line, [place(x, mean) for x, mean, _, _ in line.points])
        for x, _, least, largest in line.points:
            draw.line((*place(x, least), *place(x, largest)), COLOURS[line.colour])
        start = (left + number % 2 * 240, bottom + 50 + number // 2 * 18)
        _line(draw, line, [start, (start[0] + 34, start[1])])
        draw.text((start[0] + 44, start[1]), line.name, INK, small, anchor="lm")
    return image


def _line(draw: ImageDraw.ImageDraw, line: Line, places: Sequence[tuple[float, float]]) -> None:
    colour = COLOURS[line.colour]
    for (x1, y1), (x2, y2) in pairwise(places):
        steps = max(1, round(math.hypot(x2 - x1, y2 - y1) / DASH)) if line.dashed else 1
        for step in range(0, steps, 2):
            parts = step / steps, min(step + 1, steps) / steps
            ends = [(x1 + part * (x2 - x1), y1 + part * (y2 - y1)) for part in parts]
            draw.line([*ends[0], *ends[1]], colour, 2)
    for x, y in places:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), PAPER if line.dashed else colour, colour, 2)
