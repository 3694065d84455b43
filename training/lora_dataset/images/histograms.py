"""A sheet of histograms with their thresholds, drawn with Pillow alone: what a filter did, at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from difflora_core.images import write_picture

PANEL = (420, 260)  # pixels
COLUMNS = 3
MARGIN = (16, 44, 16, 34)  # left, top, right, bottom, inside a panel
BINS = 30
PAPER, INK, GREY, KEPT, DROPPED, LINE = "#ffffff", "#202428", "#8a9098", "#4c82b8", "#d0a08c", "#c03028"


@dataclass(frozen=True)
class Histogram:
    """One panel. threshold: of `values`; they have to be at least or at most as large. None: there is none."""

    title: str
    values: Sequence[float]
    threshold: float | None = None
    side: Literal["least", "most"] = "least"

    def passed(self) -> np.ndarray:
        """Which of the values pass, (n,) bool."""
        values = np.asarray(self.values, np.float64)
        if self.threshold is None:
            return np.ones(len(values), bool)
        return values >= self.threshold if self.side == "least" else values <= self.threshold


def draw_histograms(histograms: Sequence[Histogram], path: Path) -> None:
    """Write the sheet as a PNG file, whole or not at all."""
    rows = -(-len(histograms) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * PANEL[0], rows * PANEL[1]), PAPER)
    for number, histogram in enumerate(histograms):
        place = (number % COLUMNS * PANEL[0], number // COLUMNS * PANEL[1])
        sheet.paste(_panel(histogram), place)
    write_picture(path, sheet)


def _panel(histogram: Histogram) -> Image.Image:
    image = Image.new("RGB", PANEL, PAPER)
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    left, top = MARGIN[0], MARGIN[1]
    right, bottom = PANEL[0] - MARGIN[2], PANEL[1] - MARGIN[3]
    draw.text((left, 8), histogram.title, INK, large)
    draw.line((left, bottom, right, bottom), GREY)
    values, passed = np.asarray(histogram.values, np.float64), histogram.passed()
    if not len(values):
        draw.text((left, (top + bottom) // 2), "nothing was measured", GREY, small)
        return image
    low, high = _range(histogram)
    draw.text(
        (left, 27), f"{passed.sum()} of {len(values)} pass, median {_short(float(np.median(values)))}", GREY, small
    )
    good, bad = (np.histogram(values[part], BINS, (low, high))[0] for part in (passed, ~passed))
    tallest = int((good + bad).max())
    step, height = (right - left) / BINS, bottom - top - 14
    for number in range(BINS):
        x1, x2 = round(left + number * step), round(left + (number + 1) * step) - 2
        middle = bottom - round(height * good[number] / tallest)
        end = bottom - round(height * (good[number] + bad[number]) / tallest)
        for color, y1, y2 in ((KEPT, middle, bottom), (DROPPED, end, middle)):
            if y2 > y1:
                draw.rectangle((x1, y1, x2, y2 - 1), color)
    for value, anchor, x in ((low, "la", left), ((low + high) / 2, "ma", (left + right) // 2), (high, "ra", right)):
        draw.text((x, bottom + 5), _short(value), GREY, small, anchor=anchor)
    draw.text((right, 27), f"tallest bar {tallest}", GREY, small, anchor="ra")
    if histogram.threshold is not None:
        x = round(left + (right - left) * (histogram.threshold - low) / (high - low))
        draw.line((x, top, x, bottom), LINE, 2)
        anchor = "la" if x < (left + right) // 2 else "ra"
        draw.text(
            (x + (4 if anchor == "la" else -4), top),
            f"at {histogram.side} {histogram.threshold:g}",
            LINE,
            small,
            anchor,
        )
    return image


def _short(value: float) -> str:
    """A number to three digits, without an exponent where it can be helped."""
    return f"{float(f'{value:.3g}'):g}"


def _range(histogram: Histogram) -> tuple[float, float]:
    """From the least to the largest of values and threshold, with some room, so that the line is always seen."""
    marks = [*histogram.values, *([] if histogram.threshold is None else [histogram.threshold])]
    low, high = float(min(marks)), float(max(marks))
    room = 0.05 * (high - low) or 0.5
    return (low if low >= 0 and low - room < 0 else low - room), high + room
