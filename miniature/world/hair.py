"""Hair: a mass behind the head and a cap over the forehead, cropped to shoulder-long, straight to curly."""

from __future__ import annotations

from .colors import BLACK, WHITE, mix, rgb
from .geometry import Head, Point, Shape
from .gradients import linear_gradient
from .people import Person


def _volume(who: Person) -> float:
    return 6.0 + 4.5 * who["hair_volume"]


def _length(who: Person) -> float:
    """Height of the hair's lower end: half of the people have it above the chin, the others down to the shoulders."""
    return -4.0 + 32.0 * (who["hair_length"] + 1.0)


def _hair_side(who: Person, shape: Shape, side: int) -> list[str | Point]:
    """One side of the hair's outer edge from the crown downwards: waves grow with the trait, never with the scene."""
    volume, bottom = _volume(who), _length(who)
    wave = 3.0 * max(0.0, who["hair_wave"] + 0.4)
    crown, edge = -48.0 - 0.5 * volume, shape.half_width + volume
    points: list[str | Point] = [
        "C",
        (side * edge * 0.7, crown, 0),
        (side * edge, crown + 18, 0),
        (side * edge, -8, -4),
    ]
    steps = 4
    for step in range(steps):
        y0, y1 = -8 + (bottom + 8) * step / steps, -8 + (bottom + 8) * (step + 1) / steps
        bulge = edge + wave * (1.6 if step % 2 == 0 else -1.0)
        points += ["Q", (side * bulge, (y0 + y1) / 2, -6), (side * edge, y1, -8)]
    points += ["Q", (side * edge * 0.9, bottom + 4, -8), (side * edge * 0.55, bottom + 1, -8)]
    return points


def back_hair(head: Head, who: Person, shape: Shape) -> str:
    """Hair behind the head and shoulders, darker towards the neck."""
    crown = -48.0 - 0.5 * _volume(who)
    dark = mix(shape.hair, BLACK, 0.38)
    stops = [(0.0, mix(shape.hair, BLACK, 0.12), 1.0), (1.0, dark, 1.0)]
    shapes = linear_gradient("back", head.place((0, -20, 0)), head.place((0, 56, 0)), stops)
    for side in (1, -1):
        path: list[str | Point] = ["M", (0, crown, 0), *_hair_side(who, shape, side), "L", (0, 0, -8), "Z"]
        shapes += head.path(path, 'fill="url(#back)"')
    return shapes


def front_hair(head: Head, who: Person, shape: Shape, lit: bool) -> str:
    """Hair over the forehead: from a high parted hairline to a fringe above the brows; `lit` by the scene's light."""
    volume = _volume(who)
    crown, edge = -48.0 - 0.5 * volume, shape.half_width + 0.75 * volume
    line = -30.0 + 11.0 * max(0.0, who["fringe"] + 0.2)
    part = -10.0 if who["fringe"] < -0.2 else 4.0
    w = shape.half_width
    low = -4.0 + 10.0 * max(0.0, who["hair_length"])
    path: list[str | Point] = ["M", (0, crown, 4), "C", (edge * 0.72, crown, 4), (edge, crown + 20, 2), (edge, low, -2)]
    path += ["Q", (w - 1.0, low - 6, 6), (w - 3.0, -17, 10)]
    path += ["C", (w * 0.7, line - 1, 16), (part + 8, line + 3, 22), (part, line - 4, 22)]
    path += ["C", (part - 8, line + 4, 22), (-w * 0.7, line + 1, 16), (-w + 3.0, -17, 10)]
    path += ["Q", (-w + 1.0, low - 6, 6), (-edge, low, -2)]
    path += ["C", (-edge, crown + 20, 2), (-edge * 0.72, crown, 4), (0, crown, 4), "Z"]
    stops = [(0.0, mix(shape.hair, WHITE, 0.1), 1.0), (0.5, shape.hair, 1.0), (1.0, mix(shape.hair, BLACK, 0.16), 1.0)]
    return "".join(
        [
            linear_gradient("front", head.place((0, crown, 4)), head.place((0, -10, 10)), stops),
            head.path(path, 'fill="url(#front)"'),
            _shine(head, shape),
            head.path(path, 'fill="url(#light)"') if lit else "",
        ]
    )


def _shine(head: Head, shape: Shape) -> str:
    """A soft band of light across the crown."""
    w = shape.half_width
    path: list[str | Point] = ["M", (-w * 0.7, -33, 14), "Q", (-w * 0.15, -49, 18), (w * 0.6, -40, 15)]
    path += ["Q", (-w * 0.1, -42, 20), (-w * 0.7, -33, 14), "Z"]
    return head.path(path, f'fill="{rgb(mix(shape.hair, WHITE, 0.42))}" fill-opacity="0.42"')
