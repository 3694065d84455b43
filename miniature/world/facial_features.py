"""Ears, eyes, brows, nose, mouth, skin and its marks: functions from person, scene and head to SVG."""

from __future__ import annotations

from .geometry import EYES, Color, Head, Point, Shape, face_outline, mix, palette, rgb, surface
from .people import Person
from .scenes import Scene

LIDS_AND_BROWS = {
    "": (1.0, 1.0, 0.0, 0.0),
    "smiling": (0.95, 0.7, 1.0, 0.0),
    "laughing": (0.72, 0.5, 2.0, 0.0),
    "sad": (0.78, 1.0, 0.5, 1.0),
    "surprised": (1.35, 1.2, 4.5, 0.0),
}
"""Per expression: opening of the upper and the lower lid, lift and inner slope of the brows."""


def ear(head: Head, who: Person, shape: Shape, side: int) -> str:
    """One ear, half hidden behind the face."""
    size = 6.5 + 2.0 * who["ear_size"]
    fill = rgb(mix(shape.skin, (150, 40, 30), 0.12))
    return head.ellipse((side * (shape.half_width + 0.25 * size), 2, -4), 0.62 * size, size, f'fill="{fill}"')


def eye(head: Head, who: Person, scene: Scene, shape: Shape, side: int) -> str:
    """White, iris, pupil, highlight and lids of one eye; side −1 is left in the image."""
    upper, lower, _, _ = LIDS_AND_BROWS[scene.expression]
    x, y, rx = side * shape.eye_x, shape.eye_y, shape.eye_rx
    slant = -1.8 * who["eye_slant"]
    inner, outer = surface(x - side * rx, y - slant * 0.5), surface(x + side * rx, y + slant * 0.5)
    top, bottom = 0.98 * rx * upper, 0.74 * rx * lower
    lid: list[str | Point] = [
        "C",
        surface(x - side * rx * 0.45, y - top),
        surface(x + side * rx * 0.55, y - top),
        outer,
    ]
    almond: list[str | Point] = ["M", inner, *lid]
    almond += ["C", surface(x + side * rx * 0.5, y + bottom), surface(x - side * rx * 0.5, y + bottom), inner, "Z"]
    gaze = {"": 0.0, "looking left": -1.0, "looking right": 1.0}[scene.gaze]
    pupil = surface(x + 0.44 * rx * gaze, y - 0.4)
    radius = 0.56 * rx * (0.9 if upper > 1.2 else 1.0)
    iris = palette(EYES, who["eye_color"])
    clip = f"eye{side + 1}"
    parts = [
        f'<clipPath id="{clip}">{head.path(almond, "")}</clipPath>',
        head.path(almond, 'fill="#fbfaf6"'),
        f'<g clip-path="url(#{clip})">',
        head.ellipse(
            pupil, radius, radius, f'fill="{rgb(iris)}" stroke="{rgb(mix(iris, (0, 0, 0), 0.5))}" stroke-width="1"'
        ),
        head.ellipse(pupil, 0.5 * radius, 0.5 * radius, 'fill="#14100e"'),
        head.ellipse(
            (pupil[0] - 0.35 * radius, pupil[1] - 0.4 * radius, pupil[2]),
            0.26 * radius,
            0.26 * radius,
            'fill="#ffffff"',
        ),
        "</g>",
        head.path(["M", inner, *lid], 'fill="none" stroke="#2a1c18" stroke-width="1.7" stroke-linecap="round"'),
    ]
    return "".join(parts)


def brow(head: Head, who: Person, scene: Scene, shape: Shape, side: int) -> str:
    """One eyebrow: thickness and slope are traits; the expression lifts it and raises its inner end."""
    _, _, lift, sad = LIDS_AND_BROWS[scene.expression]
    x, y = side * shape.eye_x, shape.eye_y - 1.35 * shape.eye_rx - 2.6 - lift
    slope = 2.4 * who["brow_slope"] - 4.2 * sad
    width = 2.6 + 1.5 * who["brow_thickness"]
    inner, outer = surface(x - side * 7.5, y + slope * 0.5), surface(x + side * 8.5, y - slope * 0.5 + 1.0)
    color = rgb(mix(shape.hair, (30, 18, 12), 0.45))
    return head.path(
        ["M", inner, "Q", surface(x + side * 1.0, y - 2.8), outer],
        f'fill="none" stroke="{color}" stroke-width="{width:.2f}" stroke-linecap="round"',
    )


def nose(head: Head, who: Person, shape: Shape) -> str:
    """Bridge shadow, nostrils and tip."""
    width, y = 5.4 + 1.9 * who["nose_width"], shape.nose_y
    dark, light = rgb(mix(shape.skin, (90, 30, 20), 0.38)), rgb(mix(shape.skin, (255, 255, 255), 0.3))
    tip = surface(0, y, 7.0)
    wings: list[str | Point] = [
        "M",
        surface(-width, y - 1.5, 2),
        "Q",
        surface(-width - 0.8, y + 3.2, 3),
        surface(-0.4 * width, y + 2.4, 5),
    ]
    wings += ["Q", surface(0, y + 4.4, 7), surface(0.4 * width, y + 2.4, 5)]
    wings += ["Q", surface(width + 0.8, y + 3.2, 3), surface(width, y - 1.5, 2)]
    return head.ellipse(tip, 0.55 * width, 2.6, f'fill="{light}" fill-opacity="0.55"') + head.path(
        wings, f'fill="none" stroke="{dark}" stroke-width="1.7" stroke-linecap="round"'
    )


def mouth_corners(scene: Scene, shape: Shape) -> tuple[Point, Point]:
    """Left and right corner of the mouth: an expression widens, lifts or lowers them."""
    wide, lift = {
        "": (1.0, 0.0),
        "smiling": (1.22, 2.6),
        "laughing": (1.25, 3.0),
        "sad": (0.92, -3.0),
        "surprised": (0.62, 0.0),
    }[scene.expression]
    half, y = shape.mouth_half * wide, shape.mouth_y - lift
    return surface(-half, y, 1), surface(half, y, 1)


def mouth(head: Head, who: Person, scene: Scene, shape: Shape) -> str:
    """Lips, and the open mouth of a laugh or a surprise."""
    left, right = mouth_corners(scene, shape)
    full = 3.0 + 1.5 * who["lip_fullness"]
    lips = mix(mix(shape.skin, (170, 66, 66), 0.55), (200, 24, 52), 0.3 + 0.3 * who["lip_redness"])
    if scene.expression in ("laughing", "surprised"):
        return _open_mouth(head, left, right, full, lips, laughing=scene.expression == "laughing")
    half, y = right[0], left[1]
    bend = {"": 0.6, "smiling": 5.6, "sad": -5.0}[scene.expression]
    top: list[str | Point] = [
        "M",
        left,
        "Q",
        surface(-0.3 * half, y + bend * 0.5 - full * 1.1, 2),
        surface(0, y + bend * 0.5 - full * 0.6, 2),
    ]
    top += ["Q", surface(0.3 * half, y + bend * 0.5 - full * 1.1, 2), right]
    top += ["Q", surface(0, y + bend + full * 1.7, 2), left, "Z"]
    line = (
        f'stroke="{rgb(mix(lips, (30, 0, 0), 0.5))}" stroke-width="1.3" stroke-linecap="round" stroke-linejoin="round"'
    )
    return head.path(top, f'fill="{rgb(lips)}"') + head.path(
        ["M", left, "Q", surface(0, y + bend, 2), right], f'fill="none" {line}'
    )


def _open_mouth(head: Head, left: Point, right: Point, full: float, lips: Color, laughing: bool) -> str:
    """A dark opening with a rim of lips; a laugh shows teeth. full: thickness of the lips."""
    half, y = right[0], left[1]
    drop, rise = (12.5, 1.5) if laughing else (8.5, 8.0)
    hole: list[str | Point] = [
        "M",
        left,
        "C",
        surface(-0.6 * half, y - rise, 2),
        surface(0.6 * half, y - rise, 2),
        right,
    ]
    hole += ["C", surface(0.75 * half, y + drop, 2), surface(-0.75 * half, y + drop, 2), left, "Z"]
    inside = head.path(
        hole, f'fill="#4a1218" stroke="{rgb(lips)}" stroke-width="{0.9 * full:.2f}" stroke-linejoin="round"'
    )
    if not laughing:
        return inside
    teeth: list[str | Point] = [
        "M",
        surface(-0.78 * half, y + 1.0, 2),
        "Q",
        surface(0, y + 0.4, 2),
        surface(0.78 * half, y + 1.0, 2),
    ]
    teeth += ["Q", surface(0, y + 8.5, 2), surface(-0.78 * half, y + 1.0, 2), "Z"]
    return inside + head.path(teeth, 'fill="#fdfbf4"')


def skin_marks(head: Head, who: Person, shape: Shape) -> str:
    """Blush, freckles and beard, clipped to the face by the caller."""
    blush = 0.08 + 0.16 * max(0.0, who["cheek_color"] + 0.6)
    parts = [
        head.ellipse(surface(s * 19, 9.5), 8.0, 5.0, f'fill="#e0444c" fill-opacity="{blush:.3f}"') for s in (-1, 1)
    ]
    if who["freckles"] > 0.0:
        color, opacity = rgb(mix(shape.skin, (110, 50, 20), 0.6)), 0.35 + 0.65 * who["freckles"]
        for side in (-1, 1):
            for dx, dy in ((-5, 0), (-1, -2), (3, 0.5), (-3, 4), (1.5, 3.5), (6, 3)):
                parts.append(
                    head.ellipse(
                        surface(side * (17 + dx), 8.5 + dy), 1.0, 1.0, f'fill="{color}" fill-opacity="{opacity:.2f}"'
                    )
                )
    if who["beard"] > 0.2:
        w, jaw, chin = shape.half_width, shape.jaw, shape.chin
        edge = shape.mouth_y - 9.0
        beard: list[str | Point] = [
            "M",
            (-w - 3, 4, 4),
            "C",
            surface(-w * 0.75, edge + 2),
            surface(-jaw * 0.55, edge - 1),
            surface(0, edge - 1.5),
        ]
        beard += ["C", surface(jaw * 0.55, edge - 1), surface(w * 0.75, edge + 2), (w + 3, 4, 4)]
        beard += ["L", (w + 3, chin + 8, 4), "L", (-w - 3, chin + 8, 4), "Z"]
        opacity = 0.35 + 0.6 * who["beard"]
        parts.append(head.path(beard, f'fill="{rgb(mix(shape.hair, (20, 12, 8), 0.25))}" fill-opacity="{opacity:.2f}"'))
    return "".join(parts)


def face(head: Head, shape: Shape, extra: str) -> str:
    """The face's skin, with `extra` drawn on it and clipped to it."""
    outline = face_outline(shape)
    edge = rgb(mix(shape.skin, (90, 30, 20), 0.35))
    return (
        f'<clipPath id="face">{head.path(outline, "")}</clipPath>'
        + head.path(outline, f'fill="{rgb(shape.skin)}"')
        + f'<g clip-path="url(#face)">{extra}</g>'
        + head.path(outline, f'fill="none" stroke="{edge}" stroke-width="1"')
    )
