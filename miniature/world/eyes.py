"""Eyes and brows: functions from person, scene and head to SVG.

Irises are large, about 12 of an image's 128 pixels: one latent is 8 × 8 pixels, and what is smaller than it is drawn
by the diffusion model by chance.
"""

from __future__ import annotations

from .colors import BLACK, WHITE, eye_color, mix, rgb
from .geometry import Head, Point, Shape, surface
from .gradients import linear_gradient, radial_gradient
from .people import Person
from .scenes import Scene, side_of

LIDS_AND_BROWS = {
    "": (1.0, 1.0, 0.0, 0.0),
    "smiling": (0.95, 0.78, 1.0, 0.0),
    "laughing": (0.8, 0.62, 2.0, 0.0),
    "sad": (0.84, 1.0, 0.5, 1.0),
    "surprised": (1.28, 1.15, 4.0, 0.0),
}
"""Per expression: opening of the upper and the lower lid, lift and inner slope of the brows."""
EYEBALL, LASHES = (252, 251, 247), (38, 25, 22)


def eye(head: Head, who: Person, scene: Scene, shape: Shape, side: int) -> str:
    """Eyeball, iris, pupil, highlight, lashes and the lid's crease of one eye; side −1 is left in the image."""
    upper, lower, _, _ = LIDS_AND_BROWS[scene.expression]
    x, y, rx = side * shape.eye_x, shape.eye_y, shape.eye_rx
    slant = -1.8 * who["eye_slant"]
    inner, outer = surface(x - side * rx, y - slant * 0.5), surface(x + side * rx, y + slant * 0.5)
    top, bottom = 0.98 * rx * upper, 0.8 * rx * lower
    lid: list[str | Point] = ["C", surface(x - side * rx * 0.5, y - top), surface(x + side * rx * 0.6, y - top), outer]
    almond: list[str | Point] = ["M", inner, *lid]
    almond += ["C", surface(x + side * rx * 0.55, y + bottom), surface(x - side * rx * 0.55, y + bottom), inner, "Z"]
    crease: list[str | Point] = ["M", surface(x - side * rx * 0.8, y - 0.52 * top - 2.2), "Q"]
    crease += [surface(x + side * rx * 0.1, y - top - 3.0), surface(x + side * rx * 0.98, y - 0.42 * top - 2.2)]
    clip, shade, fold = f"eye{side + 1}", f"ball{side + 1}", rgb(mix(shape.skin, (80, 26, 16), 0.42))
    center, edge = head.place(surface(x, y)), head.place(surface(x, y - 0.9 * top))
    stops = [(0.0, (150, 140, 150), 1.0), (0.55, EYEBALL, 1.0), (1.0, EYEBALL, 1.0)]
    return "".join(
        [
            linear_gradient(shade, edge, center, stops),
            f'<clipPath id="{clip}">{head.path(almond, "")}</clipPath>',
            head.path(almond, f'fill="url(#{shade})"'),
            f'<g clip-path="url(#{clip})">{_iris(head, who, scene, shape, side)}</g>',
            head.path(almond, f'fill="none" stroke="{fold}" stroke-width="0.8"'),
            head.path(crease, f'fill="none" stroke="{fold}" stroke-width="1" stroke-linecap="round"'),
            head.path(
                ["M", inner, *lid], f'fill="none" stroke="{rgb(LASHES)}" stroke-width="2.2" stroke-linecap="round"'
            ),
        ]
    )


def _iris(head: Head, who: Person, scene: Scene, shape: Shape, side: int) -> str:
    """Iris with a dark rim, pupil and highlight, where the eye looks."""
    x, y, rx = side * shape.eye_x, shape.eye_y, shape.eye_rx
    pupil = surface(x + 0.4 * rx * side_of(scene.gaze), y - 0.3)
    radius = _radius(scene, shape)
    color, name = eye_color(who), f"iris{side + 1}"
    stops = [(0.0, mix(color, WHITE, 0.28), 1.0), (0.7, color, 1.0), (1.0, mix(color, BLACK, 0.4), 1.0)]
    light = (pupil[0] - 0.34 * radius, pupil[1] - 0.4 * radius, pupil[2])
    rim = f'stroke="{rgb(mix(color, BLACK, 0.55))}" stroke-width="1"'
    return "".join(
        [
            radial_gradient(name, head.place(pupil), radius * head.scale, stops),
            head.ellipse(pupil, radius, radius, f'fill="url(#{name})" {rim}'),
            head.ellipse(pupil, 0.42 * radius, 0.42 * radius, 'fill="#14100e"'),
            head.ellipse(light, 0.25 * radius, 0.25 * radius, 'fill="#ffffff"'),
        ]
    )


def _radius(scene: Scene, shape: Shape) -> float:
    return 0.6 * shape.eye_rx * (0.92 if scene.expression == "surprised" else 1.0)


def iris_radius(who: Person, scene: Scene) -> float:
    """Radius of an iris in pixels of the image, upright."""
    return _radius(scene, Shape.of(who)) * Head(scene).scale


def brow(head: Head, who: Person, scene: Scene, shape: Shape, side: int) -> str:
    """One eyebrow, tapered: thickness and slope are traits; the expression lifts it and raises its inner end."""
    _, _, lift, sad = LIDS_AND_BROWS[scene.expression]
    x, y = side * shape.eye_x, shape.eye_y - 1.12 * shape.eye_rx - 4.6 - lift
    slope = 2.4 * who["brow_slope"] - 4.2 * sad
    half = 0.5 * (3.0 + 1.7 * who["brow_thickness"])
    middle = (x + side * 1.5, y - 3.0)
    start, end = (x - side * 8.5, y + slope * 0.5), (x + side * 9.5, y - slope * 0.5 + 1.4)
    color = rgb(mix(shape.hair, (34, 20, 14), 0.5))
    return head.path(
        [
            "M",
            surface(start[0], start[1] - half),
            "Q",
            surface(middle[0], middle[1] - half),
            surface(*end),
            "Q",
            surface(middle[0], middle[1] + half),
            surface(start[0], start[1] + half),
            "Q",
            surface(start[0] - side * half, start[1]),
            surface(start[0], start[1] - half),
            "Z",
        ],
        f'fill="{color}" stroke="{color}" stroke-width="0.8" stroke-linejoin="round"',
    )
