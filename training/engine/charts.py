"""Sheets of line charts, drawn with matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from difflora_core.files import replacing

PANEL = (5.6, 4.2)  # inches
DOTS = 100  # per inch
COLUMNS = 2
PAPER, INK, GREY, RULE = "#ffffff", "#202428", "#6a7078", "#e4e6e9"
COLORS = ("#c0602c", "#2f6fb0", "#e0a878", "#8cb8dc")


@dataclass(frozen=True)
class Line:
    """points: (x, mean, least, largest), x ascending. color: number in `COLORS`. dashed: and with hollow points."""

    name: str
    color: int
    dashed: bool
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart; axis: what its horizontal axis shows. ticks: numbers to be named there; none are every power of two.
    logarithmic: of the horizontal axis. range: of the vertical axis; what lies beyond is drawn at its edge.
    """

    title: str
    axis: str
    lines: Sequence[Line]
    ticks: Sequence[float] = ()
    logarithmic: bool = True
    range: tuple[float, float] = (0.0, 1.1)


def draw_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Write the sheet as a PNG file, whole or not at all."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    sheet = Figure((columns * PANEL[0], rows * PANEL[1]), dpi=DOTS, layout="constrained", facecolor=PAPER)
    for number, panel in enumerate(panels, start=1):
        _draw(sheet.add_subplot(rows, columns, number), panel)
    with replacing(path) as partial:
        sheet.savefig(partial, format="png")


def _draw(axes: Axes, panel: Panel) -> None:
    low, high = panel.range
    for line in panel.lines:
        x, *heights = zip(*line.points, strict=True)
        mean, least, largest = ([min(max(y, low), high) for y in column] for column in heights)
        color = COLORS[line.color]
        axes.vlines(x, least, largest, color, linewidth=1)
        fill = PAPER if line.dashed else color
        style = "--" if line.dashed else "-"
        axes.plot(
            x, mean, style, color=color, marker="o", markersize=5, markerfacecolor=fill, label=line.name, clip_on=False
        )
    axes.set_title(panel.title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(panel.axis, fontsize=9, color=GREY)
    axes.set_ylim(low, high)
    if panel.logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    if panel.ticks:
        axes.xaxis.set_major_locator(FixedLocator(panel.ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=RULE)
    axes.tick_params(labelsize=9, colors=GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if len(panel.lines) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8, frameon=False)
