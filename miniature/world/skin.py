"""The face's skin and what is on it: light, blush, freckles, beard; ears. Functions to SVG."""

from __future__ import annotations

from .colors import WHITE, mix, rgb
from .geometry import Head, Point, Shape, face_outline, surface
from .gradients import linear_gradient, radial_gradient
from .people import Person, beard_level
from .scenes import Scene, side_of

FRECKLE_PLACES = ((-5.5, 1.5), (0.0, -2.0), (0.0, 4.5), (5.5, 1.5))
"""Places of freckles on a cheek, from its middle: few and large, since the autoencoder loses dots of two pixels."""
SHADOW, SUNLIGHT = (44, 12, 24), (255, 240, 206)


def ear(head: Head, who: Person, shape: Shape, side: int) -> str:
    """One ear, half hidden behind the face."""
    size = 6.5 + 2.0 * who["ear_size"]
    fill, inside = rgb(mix(shape.skin, (150, 40, 30), 0.1)), rgb(mix(shape.skin, (110, 30, 20), 0.34))
    center = (side * (shape.half_width + 0.25 * size), 3.0, -4.0)
    hollow = (center[0] + side * 0.08 * size, center[1], center[2])
    return head.ellipse(center, 0.62 * size, size, f'fill="{fill}"') + head.ellipse(
        hollow, 0.3 * size, 0.6 * size, f'fill="{inside}"'
    )


def face(head: Head, who: Person, shape: Shape) -> str:
    """The skin of the face, lighter in the middle, with blush and freckles."""
    outline = face_outline(shape)
    rim = mix(shape.skin, (96, 30, 24), 0.26)
    stops = [(0.0, mix(shape.skin, WHITE, 0.07), 1.0), (0.55, shape.skin, 1.0), (1.0, rim, 1.0)]
    middle = head.place(surface(0, -2))
    return "".join(
        [
            radial_gradient("skin", middle, 50 * head.scale, stops),
            f'<clipPath id="face">{head.path(outline, "")}</clipPath>',
            head.path(outline, 'fill="url(#skin)"'),
            f'<g clip-path="url(#face)">{_blush(head, who)}{_freckles(head, who, shape)}</g>',
            head.path(outline, f'fill="none" stroke="{rgb(mix(shape.skin, (90, 30, 20), 0.35))}" stroke-width="0.8"'),
        ]
    )


def _blush(head: Head, who: Person) -> str:
    """Red cheeks that fade outwards."""
    opacity = 0.08 + 0.24 * max(0.0, who["cheek_color"] + 0.4)
    color, parts = (226, 62, 70), ""
    for side in (-1, 1):
        name, center = f"blush{side + 1}", surface(side * 19.5, 11.0)
        stops = [(0.0, color, opacity), (0.5, color, 0.6 * opacity), (1.0, color, 0.0)]
        parts += radial_gradient(name, head.place(center), 10.5 * head.scale, stops)
        parts += head.ellipse(center, 10.5, 10.5, f'fill="url(#{name})"')
    return parts


def _freckles(head: Head, who: Person, shape: Shape) -> str:
    """Freckles on both cheeks and the nose, from none to clearly visible."""
    if who["freckles"] <= 0.0:
        return ""
    color, opacity = rgb(mix(shape.skin, (96, 40, 12), 0.62)), 0.4 + 0.6 * who["freckles"]
    places = [(side * (18 + dx), 10 + dy) for side in (-1, 1) for dx, dy in FRECKLE_PLACES] + [(0.0, 2.0)]
    style = f'fill="{color}" fill-opacity="{opacity:.2f}"'
    return "".join(head.ellipse(surface(x, y), 1.9, 1.9, style) for x, y in places)


def light(head: Head, scene: Scene, shape: Shape) -> str:
    """The scene's light on face and hair: even, or a gradient from a lit to a dark side; to be drawn over both."""
    if not scene.light:
        return ""
    lit = side_of(scene.light)
    reach = (shape.half_width + 8.0) * head.scale
    x, y = head.center
    stops = [
        (0.0, SUNLIGHT, 0.62 * scene.shade),
        (0.34, SUNLIGHT, 0.0),
        (0.42, SHADOW, 0.0),
        (1.0, SHADOW, 1.15 * scene.shade),
    ]
    return linear_gradient("light", (x + lit * reach, y - 8), (x - lit * reach, y + 8), stops)


def lit_face(head: Head, scene: Scene, shape: Shape) -> str:
    """The face in the gradient of `light`."""
    return head.path(face_outline(shape), 'fill="url(#light)"') if scene.light else ""


def beard(head: Head, who: Person, shape: Shape) -> str:
    """A beard from stubble to full along the jaw and over the lip, with a soft edge; from the trait's value 0.2 up."""
    level = beard_level(who)
    if level <= 0.0:
        return ""
    w, jaw, chin = shape.half_width, shape.jaw, shape.chin + 5.5 * max(0.0, level - 0.3)
    lip, half = shape.mouth_y - 7.5, shape.mouth_half + 5.0
    path: list[str | Point] = ["M", (-w + 0.5, 2, 2), "C", (-w + 3, 14, 6), surface(-half - 3, lip + 10)]
    path += [surface(-half, lip + 5), "C", surface(-half + 2, lip), surface(-5, lip - 1), surface(0, lip + 1.5)]
    path += ["C", surface(5, lip - 1), surface(half - 2, lip), surface(half, lip + 5)]
    path += ["C", surface(half + 3, lip + 10), (w - 3, 14, 6), (w - 0.5, 2, 2)]
    path += ["C", (w + 0.5, 14, 2), (jaw + 4, chin - 14, 4), (jaw * 0.74, chin - 4, 6)]
    path += ["C", (jaw * 0.42, chin + 2, 8), (jaw * 0.2, chin + 2.5, 10), (0, chin + 2.5, 10)]
    path += ["C", (-jaw * 0.2, chin + 2.5, 10), (-jaw * 0.42, chin + 2, 8), (-jaw * 0.74, chin - 4, 6)]
    path += ["C", (-jaw - 4, chin - 14, 4), (-w - 0.5, 14, 2), (-w + 0.5, 2, 2), "Z"]
    color, opacity = rgb(mix(shape.hair, (24, 14, 10), 0.3)), 0.3 + 0.65 * level
    blur = '<filter id="soft"><feGaussianBlur stdDeviation="1.6"/></filter>'
    return blur + head.path(path, f'fill="{color}" fill-opacity="{opacity:.2f}" filter="url(#soft)"')
