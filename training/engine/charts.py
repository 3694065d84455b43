"""Sheets of line charts and of histograms, drawn with matplotlib."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from difflora_core.files import replacing

DOTS_PER_INCH = 100
LINE_PANEL, LINE_COLUMNS = (5.6, 4.2), 2
HISTOGRAM_PANEL, HISTOGRAM_COLUMNS = (4.4, 3.0), 3
"""Inches of a panel, and panels side by side."""
BINS = 30
BACKGROUND, INK, GRAY, RULE = "#ffffff", "#202428", "#6a7078", "#e4e6e9"
COLORS = ("#c0602c", "#2f6fb0", "#e0a878", "#8cb8dc", "#6a9a52", "#8a6fae", "#4a4a4a", "#b8487a")
PASSED, FAILED, THRESHOLD = "#4c82b8", "#dcb4a4", "#c03028"
PanelT = TypeVar("PanelT")


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    """In the legend."""
    color: int
    """Number in `COLORS`."""
    dashed: bool
    """Dashed, with hollow markers."""
    points: Sequence[tuple[float, float, float, float]]
    """(x, mean, least, largest), x ascending."""


@dataclass(frozen=True)
class Panel:
    """One line chart."""

    title: str
    """Above the chart."""
    axis: str
    """What the horizontal axis shows."""
    lines: Sequence[Line]
    """At least one."""
    ticks: Sequence[float] | Mapping[float, str] = ()
    """Of the horizontal axis, or their labels by place; with none, matplotlib chooses."""
    logarithmic: bool = True
    """Whether the horizontal axis is logarithmic, base 2."""
    range: tuple[float, float] = (0.0, 1.1)
    """Of the vertical axis; what lies outside is drawn at its edge."""


@dataclass(frozen=True)
class Histogram:
    """The distribution of one measurement, with the threshold that it has to pass."""

    title: str
    """Above the chart."""
    values: Sequence[float]
    """Any number of them, also none."""
    minimum: float | None = None
    """Values below it fail."""
    maximum: float | None = None
    """Values above it fail."""

    def passed(self) -> np.ndarray:
        """Return which of the values pass, bool (n,)."""
        values = np.asarray(self.values, np.float64)
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        return (low <= values) & (values <= high)

    def thresholds(self) -> list[tuple[float, int, str]]:
        """Return the thresholds: value, side on which values fail (−1 is below), label."""
        sides = ((self.minimum, -1, "at least"), (self.maximum, 1, "at most"))
        return [(value, side, f"{word} {value:g}") for value, side, word in sides if value is not None]


def draw_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Write a sheet of line charts as a PNG file, whole or not at all."""
    _draw_sheet(path, panels, _draw_lines, LINE_PANEL, min(LINE_COLUMNS, len(panels)))


def draw_histograms(path: Path, histograms: Sequence[Histogram]) -> None:
    """Write a sheet of histograms as a PNG file, whole or not at all."""
    _draw_sheet(path, histograms, _draw_histogram, HISTOGRAM_PANEL, min(HISTOGRAM_COLUMNS, len(histograms)))


def _draw_sheet(
    path: Path,
    panels: Sequence[PanelT],
    draw: Callable[[Axes, PanelT], None],
    size: tuple[float, float],
    columns: int,
) -> None:
    rows = -(-len(panels) // columns)
    sheet = Figure(
        (columns * size[0], rows * size[1]),
        dpi=DOTS_PER_INCH,
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
        facecolor=BACKGROUND,
    )
    for number, panel in enumerate(panels, start=1):
        draw(sheet.add_subplot(rows, columns, number), panel)
    with replacing(path) as partial:
        sheet.savefig(partial, format="png")


def _draw_lines(axes: Axes, panel: Panel) -> None:
    low, high = panel.range
    for line in panel.lines:
        x, *heights = zip(*line.points, strict=True)
        mean, least, largest = ([min(max(y, low), high) for y in column] for column in heights)
        color = COLORS[line.color]
        axes.vlines(x, least, largest, color, linewidth=1)
        fill = BACKGROUND if line.dashed else color
        style = "--" if line.dashed else "-"
        axes.plot(
            x, mean, style, color=color, marker="o", markersize=5, markerfacecolor=fill, label=line.name, clip_on=False
        )
    axes.set_title(panel.title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(panel.axis, fontsize=9, color=GRAY)
    axes.set_ylim(low, high)
    if panel.logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    if panel.ticks:
        axes.xaxis.set_major_locator(FixedLocator(list(panel.ticks)))
    if isinstance(panel.ticks, Mapping):
        axes.xaxis.set_major_formatter(FixedFormatter(list(panel.ticks.values())))
    axes.xaxis.set_minor_locator(NullLocator())
    _set_style(axes)
    if len(panel.lines) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8, frameon=False)


def _draw_histogram(axes: Axes, histogram: Histogram) -> None:
    values, passed = np.asarray(histogram.values, np.float64), histogram.passed()
    summary = f"{passed.sum()} of {len(values)} pass, median {np.median(values):.3g}" if len(values) else "no values"
    axes.set_title(histogram.title, loc="left", fontsize=11, color=INK, pad=20)
    axes.text(0, 1.03, summary, transform=axes.transAxes, fontsize=9, color=GRAY)
    edges = _bin_edges(histogram)
    counts, _, _ = axes.hist(
        [values[passed], values[~passed]], edges, stacked=True, rwidth=0.9, color=[PASSED, FAILED], zorder=2
    )
    for value, side, label in histogram.thresholds():
        between_bars = value + 0.5 * side if _is_discrete(histogram) else value
        _draw_threshold(axes, between_bars, label, left_half=value < (edges[0] + edges[-1]) / 2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.2 * max(1.0, float(np.max(counts))))  # bars end below the thresholds' labels
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=_is_discrete(histogram)))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _set_style(axes)


def _is_discrete(histogram: Histogram) -> bool:
    """Whether the values are a few integers, which get a bin each."""
    values = np.asarray(histogram.values, np.float64)
    return len(values) > 0 and bool((values == values.round()).all() and np.ptp(values) < BINS / 2)


def _bin_edges(histogram: Histogram) -> list[float]:
    """Edges of bins that cover all values and thresholds, with a margin in which a threshold at the end is visible."""
    marks = [*histogram.values, *(value for value, _, _ in histogram.thresholds())] or [0.0, 1.0]
    low, high = min(marks), max(marks)
    if _is_discrete(histogram):
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1).tolist()
    margin = 0.04 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, BINS + 1).tolist()


def _draw_threshold(axes: Axes, value: float, label: str, left_half: bool) -> None:
    axes.axvline(value, color=THRESHOLD, linewidth=1.5, zorder=3)
    axes.annotate(
        label,
        (value, 1.0),
        (5 if left_half else -5, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="left" if left_half else "right",
        va="top",
        fontsize=9,
        color=THRESHOLD,
    )


def _set_style(axes: Axes) -> None:
    axes.grid(axis="y", color=RULE, zorder=0)
    axes.tick_params(labelsize=9, colors=GRAY)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRAY)
