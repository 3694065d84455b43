"""Geometry that all parts of a drawn head share.

The head is a shallow relief: every control point has a depth, is turned by yaw and pitch, tilted, scaled and moved, and
only then written into a path. So a turned head shows parallax, and the landmarks are the drawing's own points.
Coordinates are pixels of a 128 × 128 image: origin in the middle of the head, y down, z to the viewer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colors import Color, hair_color, skin_color
from .people import Person
from .scenes import Scene

IMAGE_SIZE = 128
"""Side of an image in pixels."""
HEAD_CENTER = (64.0, 70.0)
"""Where the middle of the head is in an image."""
HEAD_SCALE = 1.13
"""The face fills the image: an eye must cover more than one latent, which is 8 × 8 pixels."""

Point = tuple[float, float, float]


class Head:
    """Places points of the head's relief in the image: turn, nod, tilt, scale, move."""

    def __init__(self, scene: Scene) -> None:
        self.sin_yaw, self.cos_yaw = np.sin(scene.yaw), np.cos(scene.yaw)
        self.sin_pitch, self.cos_pitch = np.sin(scene.pitch), np.cos(scene.pitch)
        self.sin_roll, self.cos_roll = np.sin(scene.roll), np.cos(scene.roll)
        self.scale = HEAD_SCALE * scene.scale
        self.center = (HEAD_CENTER[0] + scene.shift_x, HEAD_CENTER[1] + scene.shift_y)

    def place(self, point: Point) -> tuple[float, float]:
        """Position in the image of a point (x, y, z) of the head."""
        x, y, z = point
        x, z = x * self.cos_yaw + z * self.sin_yaw, z * self.cos_yaw - x * self.sin_yaw
        y = y * self.cos_pitch + z * self.sin_pitch
        x, y = x * self.cos_roll - y * self.sin_roll, x * self.sin_roll + y * self.cos_roll
        return self.center[0] + self.scale * x, self.center[1] + self.scale * y

    def path(self, commands: list[str | Point], style: str) -> str:
        """An SVG path whose points are head points: ["M", p, "C", p, p, p, …, "Z"]."""
        words = []
        for item in commands:
            if isinstance(item, str):
                words.append(item)
            else:
                x, y = self.place(item)
                words.append(f"{x:.2f} {y:.2f}")
        return f'<path d="{" ".join(words)}" {style}/>'

    def ellipse(self, center: Point, rx: float, ry: float, style: str) -> str:
        """An ellipse that faces the viewer and tilts with the head."""
        x, y = self.place(center)
        angle = np.degrees(np.arctan2(self.sin_roll, self.cos_roll))
        rx, ry = rx * self.scale * self.cos_yaw, ry * self.scale
        return (
            f'<ellipse cx="{x:.2f}" cy="{y:.2f}" rx="{rx:.2f}" ry="{ry:.2f}" '
            f'transform="rotate({angle:.2f} {x:.2f} {y:.2f})" {style}/>'
        )


def surface(x: float, y: float, lift: float = 0.0) -> Point:
    """The point of the face's relief over (x, y); `lift` stands out of it (a nose, a brim)."""
    depth = 30.0 * np.sqrt(max(0.05, 1.0 - (x / 34.0) ** 2 - (y / 62.0) ** 2))
    return (x, y, depth + lift)


@dataclass(frozen=True)
class Shape:
    """Measures that several parts of the drawing share, in pixels of the head."""

    half_width: float
    """Half the width of the face."""
    jaw: float
    """Half the width of the jaw."""
    chin: float
    """Height of the chin, below the middle of the head."""
    eye_x: float
    """Distance of an eye from the middle."""
    eye_y: float
    """Height of the eyes."""
    eye_rx: float
    """Half the width of an eye."""
    mouth_y: float
    """Height of the mouth."""
    mouth_half: float
    """Half the width of the closed mouth."""
    nose_y: float
    """Height of the tip of the nose."""
    hair: Color
    """Color of the hair."""
    skin: Color
    """Color of the skin."""

    @staticmethod
    def of(who: Person) -> Shape:
        """The measures of a person."""
        half_width = 31.0 + 4.0 * who["face_width"]
        chin = 38.0 + 4.0 * who["chin_length"]
        return Shape(
            half_width=half_width,
            jaw=half_width * (0.64 + 0.18 * who["jaw_width"]),
            chin=chin,
            eye_x=14.7 + 1.7 * who["eye_spacing"] + 0.6 * who["face_width"],
            eye_y=-3.0,
            eye_rx=8.8 + 1.4 * who["eye_size"],
            mouth_y=0.62 * chin - 1.0,
            mouth_half=10.5 + 3.0 * who["mouth_width"],
            nose_y=10.0 + 2.6 * who["nose_length"],
            hair=hair_color(who),
            skin=skin_color(who),
        )


def face_outline(shape: Shape) -> list[str | Point]:
    """Closed path of the face from the crown down to the chin and up again."""
    w, jaw, chin = shape.half_width, shape.jaw, shape.chin
    right: list[str | Point] = ["M", (0, -42, 6), "C", (w * 0.72, -42, 6), (w, -26, 4), (w, -4, 2)]
    right += ["C", (w, 12, 2), (jaw + 4, chin - 14, 4), (jaw * 0.72, chin - 5, 6)]
    right += ["C", (jaw * 0.42, chin + 1, 8), (jaw * 0.2, chin + 1, 10), (0, chin + 1, 10)]
    left: list[str | Point] = ["C", (-jaw * 0.2, chin + 1, 10), (-jaw * 0.42, chin + 1, 8), (-jaw * 0.72, chin - 5, 6)]
    left += ["C", (-jaw - 4, chin - 14, 4), (-w, 12, 2), (-w, -4, 2)]
    left += ["C", (-w, -26, 4), (-w * 0.72, -42, 6), (0, -42, 6), "Z"]
    return right + left
