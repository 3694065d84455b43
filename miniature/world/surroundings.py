"""What is around a drawn head: the wall behind it, neck and clothes. Functions to SVG."""

from __future__ import annotations

from .colors import BLACK, WHITE, Color, mix, rgb
from .geometry import HEAD_CENTER, HEAD_SCALE, IMAGE_SIZE, Shape
from .gradients import linear_gradient, radial_gradient
from .scenes import Scene, side_of

SHIRT_COLORS: dict[str, Color] = {
    "white shirt": (240, 240, 236),
    "black shirt": (48, 48, 56),
    "red shirt": (204, 52, 50),
    "green shirt": (48, 142, 86),
    "blue shirt": (46, 92, 190),
}
BACKGROUND_COLORS: dict[str, Color] = {
    "white": (232, 232, 236),
    "blue": (112, 172, 230),
    "green": (124, 190, 132),
    "yellow": (244, 208, 98),
    "pink": (244, 164, 186),
    "dark": (46, 50, 72),
}


def backdrop(scene: Scene) -> str:
    """A wall that is brightest on the side that the light comes from, with two large soft discs."""
    base = BACKGROUND_COLORS[scene.background]
    x = 64 + 48 * side_of(scene.light) + scene.shift_x
    stops = [(0.0, mix(base, WHITE, 0.34), 1.0), (0.55, base, 1.0), (1.0, mix(base, BLACK, 0.22), 1.0)]
    disc = f'fill="{rgb(mix(base, WHITE, 0.55))}" fill-opacity="0.22"'
    return (
        radial_gradient("wall", (x, 44), 104, stops)
        + f'<rect width="{IMAGE_SIZE}" height="{IMAGE_SIZE}" fill="url(#wall)"/>'
        + f'<circle cx="{14 + 0.5 * scene.shift_x:.1f}" cy="26" r="17" {disc}/>'
        + f'<circle cx="{117 + 0.5 * scene.shift_x:.1f}" cy="50" r="23" {disc}/>'
    )


def shoulders(scene: Scene, shape: Shape) -> str:
    """Neck and shirt: they move with the head but do not turn with it."""
    x = HEAD_CENTER[0] + scene.shift_x
    y = HEAD_CENTER[1] + scene.shift_y + shape.chin * HEAD_SCALE * scene.scale
    return _neck(x, y, shape) + _shirt(x, y, scene)


def _neck(x: float, y: float, shape: Shape) -> str:
    stops = [(0.0, mix(shape.skin, (60, 20, 10), 0.5), 1.0), (1.0, mix(shape.skin, (60, 20, 10), 0.14), 1.0)]
    return (
        linear_gradient("neck", (x, y - 2), (x, y + 14), stops)
        + f'<path d="M {x - 12:.1f} {y - 12:.1f} L {x - 14:.1f} {y + 12:.1f} Q {x:.1f} {y + 24:.1f} {x + 14:.1f} '
        + f'{y + 12:.1f} L {x + 12:.1f} {y - 12:.1f} Z" fill="url(#neck)"/>'
    )


def _shirt(x: float, y: float, scene: Scene) -> str:
    """A shirt with a round collar and two folds; it is bright on the side that the light comes from."""
    color = SHIRT_COLORS[scene.shirt]
    side = side_of(scene.light)
    bright, dark = mix(color, WHITE, 0.12), mix(color, BLACK, 0.24)
    stops = [(0.0, bright, 1.0), (1.0, dark, 1.0)]
    start, end = ((x + side * 50, y), (x - side * 50, y + 20)) if side else ((x, y), (x, y + 32))
    seam = rgb(mix(color, BLACK, 0.34))
    thin = f'fill="none" stroke="{seam}" stroke-width="1.2" stroke-linecap="round"'
    return (
        linear_gradient("shirt", start, end, stops)
        + f'<path d="M {x - 64:.1f} {y + 52:.1f} Q {x - 58:.1f} {y + 13:.1f} {x - 24:.1f} {y + 7:.1f} L {x - 14:.1f} '
        + f"{y + 2:.1f} Q {x:.1f} {y + 21:.1f} {x + 14:.1f} {y + 2:.1f} L {x + 24:.1f} {y + 7:.1f} "
        + f'Q {x + 58:.1f} {y + 13:.1f} {x + 64:.1f} {y + 52:.1f} Z" fill="url(#shirt)"/>'
        + f'<path d="M {x - 14.5:.1f} {y + 3.5:.1f} Q {x:.1f} {y + 24:.1f} {x + 14.5:.1f} {y + 3.5:.1f}" fill="none" '
        + f'stroke="{rgb(mix(color, WHITE, 0.22))}" stroke-width="3" stroke-linecap="round"/>'
        + f'<path d="M {x - 34:.1f} {y + 16:.1f} Q {x - 30:.1f} {y + 22:.1f} {x - 30:.1f} {y + 32:.1f}" {thin}/>'
        + f'<path d="M {x + 34:.1f} {y + 16:.1f} Q {x + 30:.1f} {y + 22:.1f} {x + 30:.1f} {y + 32:.1f}" {thin}/>'
    )
