"""Nose and mouth: functions from person, scene and head to SVG."""

from __future__ import annotations

from .colors import WHITE, Color, mix, rgb
from .geometry import Head, Point, Shape, surface
from .gradients import linear_gradient
from .people import Person
from .scenes import Scene

CORNERS = {
    "": (1.0, 0.0),
    "smiling": (1.22, 2.6),
    "laughing": (1.25, 3.0),
    "sad": (0.92, -3.0),
    "surprised": (0.62, 0.0),
}
"""Per expression: widening of the mouth, lift of its corners."""


def nose(head: Head, who: Person, shape: Shape) -> str:
    """A lit ridge, a soft tip and nostrils."""
    width, y = 5.4 + 1.9 * who["nose_width"], shape.nose_y
    dark = rgb(mix(shape.skin, (90, 30, 20), 0.42))
    glow = mix(shape.skin, WHITE, 0.4)
    ridge: list[str | Point] = ["M", surface(-1.6, -7, 3), "Q", surface(-2.6, y - 5, 6), surface(-0.5 * width, y, 6)]
    ridge += ["Q", surface(0, y + 3, 7), surface(0.5 * width, y, 6), "Q", surface(2.6, y - 5, 6), surface(1.6, -7, 3)]
    wings: list[str | Point] = ["M", surface(-width, y - 1.5, 2), "Q", surface(-width - 0.8, y + 3.2, 3)]
    wings += [surface(-0.4 * width, y + 2.4, 5), "Q", surface(0, y + 4.4, 7), surface(0.4 * width, y + 2.4, 5)]
    wings += ["Q", surface(width + 0.8, y + 3.2, 3), surface(width, y - 1.5, 2)]
    stops = [(0.0, glow, 0.0), (0.75, glow, 0.5), (1.0, glow, 0.7)]
    return "".join(
        [
            linear_gradient("ridge", head.place(surface(0, -7, 3)), head.place(surface(0, y + 2, 7)), stops),
            head.path([*ridge, "Z"], 'fill="url(#ridge)"'),
            head.path(wings, f'fill="none" stroke="{dark}" stroke-width="1.7" stroke-linecap="round"'),
        ]
    )


def mouth_corners(scene: Scene, shape: Shape) -> tuple[Point, Point]:
    """Left and right corner of the mouth: an expression widens, lifts or lowers them."""
    wide, lift = CORNERS[scene.expression]
    half, y = shape.mouth_half * wide, shape.mouth_y - lift
    return surface(-half, y, 2.0), surface(half, y, 2.0)


def _lip_color(who: Person, shape: Shape) -> Color:
    """Color of the lips: the skin's, reddened by a trait."""
    return mix(mix(shape.skin, (170, 66, 66), 0.55), (200, 24, 52), 0.3 + 0.3 * who["lip_redness"])


def mouth(head: Head, who: Person, scene: Scene, shape: Shape) -> str:
    """Lips, and the open mouth of a laugh or a surprise."""
    left, right = mouth_corners(scene, shape)
    full, lips = 3.0 + 1.5 * who["lip_fullness"], _lip_color(who, shape)
    if scene.expression in ("laughing", "surprised"):
        return _open_mouth(head, left, right, full, lips, laughing=scene.expression == "laughing")
    half, y = right[0], left[1]
    bend = {"": 0.6, "smiling": 5.6, "sad": -5.0}[scene.expression]
    middle = y + bend * 0.5 - full * 0.6
    outline: list[str | Point] = ["M", left, "Q", surface(-0.3 * half, middle - 0.5 * full, 2), surface(0, middle, 2)]
    outline += ["Q", surface(0.3 * half, middle - 0.5 * full, 2), right]
    outline += ["Q", surface(0, y + bend + full * 1.7, 2), left, "Z"]
    line = f'stroke="{rgb(mix(lips, (30, 0, 0), 0.5))}" stroke-width="1.3" stroke-linecap="round"'
    low = surface(0, y + bend * 0.5 + full * 0.75, 3)
    return (
        head.path(outline, f'fill="{rgb(lips)}"')
        + head.ellipse(low, 0.34 * half, 0.22 * full, f'fill="{rgb(mix(lips, WHITE, 0.5))}" fill-opacity="0.6"')
        + head.path(["M", left, "Q", surface(0, y + bend, 2), right], f'fill="none" {line}')
    )


def _open_mouth(head: Head, left: Point, right: Point, full: float, lips: Color, laughing: bool) -> str:
    """A dark opening with a rim of lips; a laugh shows teeth, a surprise the tongue. full: thickness of the lips."""
    half, y = right[0], left[1]
    drop, rise = (12.5, 1.5) if laughing else (8.5, 8.0)
    hole: list[str | Point] = ["M", left, "C", surface(-0.6 * half, y - rise, 2), surface(0.6 * half, y - rise, 2)]
    hole += [right, "C", surface(0.75 * half, y + drop, 2), surface(-0.75 * half, y + drop, 2), left, "Z"]
    rim = f'stroke="{rgb(lips)}" stroke-width="{0.9 * full:.2f}" stroke-linejoin="round"'
    inside = head.path(hole, f'fill="#4a1218" {rim}')
    if not laughing:
        return inside + head.ellipse(surface(0, y + 3.6, 2), 0.42 * half, 2.0, 'fill="#b0444e"')
    teeth: list[str | Point] = ["M", surface(-0.78 * half, y + 1.0, 2), "Q", surface(0, y + 0.4, 2)]
    teeth += [surface(0.78 * half, y + 1.0, 2), "Q", surface(0, y + 8.5, 2), surface(-0.78 * half, y + 1.0, 2), "Z"]
    return inside + head.path(teeth, 'fill="#fdfbf4"')
