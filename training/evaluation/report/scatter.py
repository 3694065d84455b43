"""Likeness against prompt fidelity, a point with intervals for each method, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..statistics import Interval
from .evaluation_report import EvaluationReport
from .report_tables import is_likeness, summary_columns

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 760, 460, 70, 50, 20
TICKS = 5
INK, GRAY, ACCENT = "#2d2a26", "#b9b0a2", "#c4552d"


@dataclass(frozen=True)
class Axis:
    """From values to pixels."""

    low: float
    """The value at `start`."""
    high: float
    """The value at `stop`."""
    start: float
    """Pixels."""
    stop: float
    """Pixels."""

    @classmethod
    def of(cls, intervals: Sequence[Interval], start: float, stop: float) -> "Axis":
        """Make an axis on which intervals find place."""
        ends = [end for i in intervals for end in (i.mean, i.low, i.high) if not math.isnan(end)]
        margin = 0.08 * (max(ends) - min(ends)) or 0.05
        return cls(min(ends) - margin, max(ends) + margin, start, stop)

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return some values between both ends."""
        return [self.low + (self.high - self.low) * (n + 0.5) / TICKS for n in range(TICKS)]


def scatter(report: EvaluationReport) -> str:
    """Draw the methods that have both values; empty where the metrics have no such pair of columns."""
    columns = summary_columns(report)
    likeness = next((pair for pair in columns if is_likeness(pair[1])), None)
    fidelity = next((p for p in columns if "," not in p[1] and p[0].columns[p[1]] == "higher"), None)
    if likeness is None or fidelity is None:
        return ""
    points = {}
    for method in report.methods:
        x, y = (result.comparisons[column][method].value for result, column in (fidelity, likeness))
        if x.people and y.people:
            points[method] = x, y
    if not points:
        return ""
    across = Axis.of([x for x, _ in points.values()], LEFT, WIDTH - MARGIN)
    up = Axis.of([y for _, y in points.values()], HEIGHT - BOTTOM, MARGIN)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" font-size="13" font-family="sans-serif">']
    parts += [_grid(across, up)]
    for method, (x, y) in points.items():
        parts.append(_point(method, x, y, across, up, method == report.settings.baseline))
    middle = (HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(fidelity[1])}</text>')
    place = f'x="16" y="{middle}" transform="rotate(-90 16 {middle})"'
    parts.append(f'<text {place} text-anchor="middle">{escape(likeness[1])}</text></svg>')
    return "".join(parts)


def _grid(across: Axis, up: Axis) -> str:
    lines = []
    for value in across.ticks():
        x = f"{across(value):.1f}"
        lines.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="{GRAY}">{value:.3f}</text>')
    for value in up.ticks():
        y = f"{up(value):.1f}"
        lines.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" fill="{GRAY}">{value:.3f}</text>')
    frame = f'x="{LEFT}" y="{MARGIN}" width="{WIDTH - LEFT - MARGIN}" height="{HEIGHT - BOTTOM - MARGIN}"'
    return "".join([f'<rect {frame} fill="none" stroke="{GRAY}"/>', *lines])


def _point(method: str, x: Interval, y: Interval, across: Axis, up: Axis, own: bool) -> str:
    left, top, color = across(x.mean), up(y.mean), ACCENT if own else INK
    bars = []
    if not math.isnan(x.low):
        bars.append(f"M{across(x.low):.1f} {top:.1f}H{across(x.high):.1f}")
    if not math.isnan(y.low):
        bars.append(f"M{left:.1f} {up(y.low):.1f}V{up(y.high):.1f}")
    near_right = left > WIDTH * 0.75
    anchor, shift = ("end", -8) if near_right else ("start", 8)
    label = (
        f'<text x="{left + shift:.1f}" y="{top - 7:.1f}" text-anchor="{anchor}" fill="{color}">{escape(method)}</text>'
    )
    lines = f'<path d="{"".join(bars)}" stroke="{color}" stroke-opacity="0.5" fill="none"/>'
    return f'{lines}<circle cx="{left:.1f}" cy="{top:.1f}" r="5" fill="{color}"/>{label}'
