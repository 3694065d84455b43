"""Glasses and hats: functions from scene and head to SVG."""

from __future__ import annotations

from .geometry import Head, Point, Shape, mix, rgb, surface
from .scenes import Scene

RED_BEANIE = (196, 44, 52)
STRAW = (232, 200, 122)


def glasses(head: Head, shape: Shape) -> str:
    """Round dark frames with faintly tinted lenses."""
    frame = 'fill="#dff0ff" fill-opacity="0.22" stroke="#1c1c22" stroke-width="2"'
    radius = shape.eye_rx + 4.0
    x = max(shape.eye_x, radius + 1.0)
    parts = [head.ellipse(surface(s * x, shape.eye_y + 0.5, 3), radius, radius * 0.94, frame) for s in (-1, 1)]
    line = 'fill="none" stroke="#1c1c22" stroke-width="2" stroke-linecap="round"'
    gap = x - radius
    parts.append(
        head.path(
            ["M", surface(-gap, shape.eye_y, 4), "Q", surface(0, shape.eye_y - 3, 6), surface(gap, shape.eye_y, 4)],
            line,
        )
    )
    for s in (-1, 1):
        parts.append(
            head.path(
                ["M", surface(s * (x + radius), shape.eye_y, 2), "L", (s * (shape.half_width + 1.5), -2, -4)], line
            )
        )
    return "".join(parts)


def hat(head: Head, scene: Scene, shape: Shape) -> str:
    """A red beanie or a straw hat over the hair."""
    w = shape.half_width + 7.0
    if scene.hat == "wearing a red beanie":
        dome: list[str | Point] = [
            "M",
            (-w, -21, 2),
            "C",
            (-w, -62, 0),
            (w, -62, 0),
            (w, -21, 2),
            "Q",
            (0, -29, 26),
            (-w, -21, 2),
            "Z",
        ]
        band: list[str | Point] = ["M", (-w, -22, 2), "Q", (0, -31, 27), (w, -22, 2)]
        dark = rgb(mix(RED_BEANIE, (0, 0, 0), 0.25))
        return (
            head.path(dome, f'fill="{rgb(RED_BEANIE)}"')
            + head.path(band, f'fill="none" stroke="{dark}" stroke-width="8" stroke-linecap="round"')
            + head.ellipse((0, -57, 0), 5.5, 5.0, 'fill="#f6f0ee"')
        )
    if scene.hat == "wearing a straw hat":
        crown: list[str | Point] = [
            "M",
            (-w + 9, -28, 4),
            "C",
            (-w + 10, -62, 0),
            (w - 10, -62, 0),
            (w - 9, -28, 4),
            "Z",
        ]
        ribbon: list[str | Point] = ["M", (-w + 9, -33, 4), "Q", (0, -36, 20), (w - 9, -33, 4)]
        return (
            head.path(crown, f'fill="{rgb(STRAW)}"')
            + head.path(ribbon, 'fill="none" stroke="#7a3424" stroke-width="6"')
            + head.ellipse(
                (0, -28, 8),
                w + 11,
                7.0,
                f'fill="{rgb(STRAW)}" stroke="{rgb(mix(STRAW, (80, 50, 0), 0.35))}" stroke-width="1.2"',
            )
        )
    return ""
