"""Gradients as SVG: definitions that a later `fill="url(#name)"` refers to, in pixels of the image."""

from __future__ import annotations

from collections.abc import Sequence

from .colors import Color, rgb

Stop = tuple[float, Color, float]
"""Position from 0 to 1, color, opacity."""


def linear_gradient(name: str, start: tuple[float, float], end: tuple[float, float], stops: Sequence[Stop]) -> str:
    """Colors along the line from `start` to `end`."""
    x1, y1, x2, y2 = *start, *end
    return (
        f'<linearGradient id="{name}" gradientUnits="userSpaceOnUse" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" '
        f'y2="{y2:.2f}">{_stops(stops)}</linearGradient>'
    )


def radial_gradient(name: str, center: tuple[float, float], radius: float, stops: Sequence[Stop]) -> str:
    """Colors from `center` outwards."""
    x, y = center
    return (
        f'<radialGradient id="{name}" gradientUnits="userSpaceOnUse" cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}">'
        f"{_stops(stops)}</radialGradient>"
    )


def _stops(stops: Sequence[Stop]) -> str:
    return "".join(
        f'<stop offset="{position:.3f}" stop-color="{rgb(color)}" stop-opacity="{opacity:.3f}"/>'
        for position, color, opacity in stops
    )
