"""Glasses and hats: functions from scene and head to SVG."""

from __future__ import annotations

from .colors import BLACK, WHITE, Color, mix, rgb
from .geometry import Head, Point, Shape, surface
from .gradients import linear_gradient
from .scenes import BEANIE, BLUE_BEANIE, Scene

BEANIES: dict[str, Color] = {BEANIE: (200, 46, 54), BLUE_BEANIE: (58, 104, 196)}
"""Colors; the blue is near that of shirts: purer blues, which the autoencoder has not seen, it makes dull."""
STRAW = (234, 202, 124)
FRAME = "#1c1c22"


def glasses(head: Head, shape: Shape) -> str:
    """Round dark frames with faintly tinted lenses."""
    frame = f'fill="#dff0ff" fill-opacity="0.16" stroke="{FRAME}" stroke-width="2"'
    radius = shape.eye_rx + 3.0
    x = max(shape.eye_x, radius + 1.0)
    parts = [head.ellipse(surface(s * x, shape.eye_y + 0.5, 3), radius, radius * 0.96, frame) for s in (-1, 1)]
    line = f'fill="none" stroke="{FRAME}" stroke-width="2" stroke-linecap="round"'
    gap = x - radius
    bridge: list[str | Point] = ["M", surface(-gap, shape.eye_y, 4), "Q", surface(0, shape.eye_y - 3, 6)]
    parts.append(head.path([*bridge, surface(gap, shape.eye_y, 4)], line))
    for s in (-1, 1):
        temple: list[str | Point] = ["M", surface(s * (x + radius), shape.eye_y, 2), "L"]
        parts.append(head.path([*temple, (s * (shape.half_width + 1.5), -2, -4)], line))
    return "".join(parts)


def hat(head: Head, scene: Scene, shape: Shape) -> str:
    """A beanie or a straw hat over the hair."""
    if scene.hat in BEANIES:
        return _beanie(head, shape.half_width + 7.0, BEANIES[scene.hat])
    return _straw_hat(head, shape.half_width + 7.0) if scene.hat else ""


def _beanie(head: Head, w: float, color: Color) -> str:
    dome: list[str | Point] = ["M", (-w, -23, 2), "C", (-w, -64, 0), (w, -64, 0), (w, -23, 2)]
    dome += ["Q", (0, -31, 26), (-w, -23, 2), "Z"]
    band: list[str | Point] = ["M", (-w, -24, 2), "Q", (0, -33, 27), (w, -24, 2)]
    dark, bright = mix(color, BLACK, 0.24), mix(color, WHITE, 0.16)
    stops = [(0.0, bright, 1.0), (1.0, mix(color, BLACK, 0.1), 1.0)]
    return "".join(
        [
            linear_gradient("hat", head.place((0, -56, 0)), head.place((0, -28, 0)), stops),
            head.path(dome, 'fill="url(#hat)"'),
            head.path(band, f'fill="none" stroke="{rgb(dark)}" stroke-width="8" stroke-linecap="round"'),
            head.ellipse((0, -56, 0), 6.0, 5.5, 'fill="#f6f0ee" stroke="#d8c8c6" stroke-width="1"'),
        ]
    )


def _straw_hat(head: Head, w: float) -> str:
    crown: list[str | Point] = ["M", (-w + 9, -30, 4), "C", (-w + 10, -64, 0), (w - 10, -64, 0), (w - 9, -30, 4), "Z"]
    ribbon: list[str | Point] = ["M", (-w + 9, -35, 4), "Q", (0, -38, 20), (w - 9, -35, 4)]
    shade = mix(STRAW, (80, 50, 0), 0.35)
    stops = [(0.0, mix(STRAW, WHITE, 0.25), 1.0), (1.0, mix(STRAW, shade, 0.5), 1.0)]
    return "".join(
        [
            linear_gradient("hat", head.place((0, -56, 0)), head.place((0, -30, 0)), stops),
            head.path(crown, 'fill="url(#hat)"'),
            head.path(ribbon, 'fill="none" stroke="#7a3424" stroke-width="6"'),
            head.ellipse((0, -30, 8), w + 11, 7.0, f'fill="{rgb(STRAW)}" stroke="{rgb(shade)}" stroke-width="1.2"'),
        ]
    )
