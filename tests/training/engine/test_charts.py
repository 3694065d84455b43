"""Line charts: a line is where its points are, and what lies beyond the chart at its edge."""

import pytest
from PIL import Image

from training.engine.charts import COLORS, Line, Panel, draw_panels

LEGEND = 60  # pixels at the foot


def heights(path, color: int) -> list[int]:
    """Rows of the chart that have this color."""
    picture = Image.open(path).convert("RGB")
    rgb = tuple(int(COLORS[color][i : i + 2], 16) for i in (1, 3, 5))
    return [
        y
        for y in range(picture.height - LEGEND)
        if any(picture.getpixel((x, y)) == rgb for x in range(0, picture.width, 3))
    ]


def level(name: str, color: int, height: float) -> Line:
    return Line(name, color, bool(color), [(x, height, height, height) for x in (1, 4)])


@pytest.mark.parametrize("logarithmic", [True, False])
def test_lines_are_drawn_where_their_points_are(tmp_path, logarithmic):
    lines = [level("high", 0, 1.0), level("low", 1, 0.5)]
    draw_panels(tmp_path / "lines.png", [Panel("title", "axis", lines, (1, 4), logarithmic)])
    high, low = (heights(tmp_path / "lines.png", color) for color in (0, 1))
    assert high
    assert low
    assert max(high) < min(low)


def test_what_lies_beyond_is_drawn_at_the_edge(tmp_path):
    for name, height in (("beyond", 7.0), ("edge", 2.0)):
        draw_panels(tmp_path / f"{name}.png", [Panel("", "", [level("", 0, height)], range=(0.0, 2.0))])
    assert heights(tmp_path / "beyond.png", 0) == heights(tmp_path / "edge.png", 0)
    assert heights(tmp_path / "edge.png", 0)


def test_panels_stand_side_by_side(tmp_path):
    draw_panels(tmp_path / "three.png", [Panel("", "", [level("", 0, 1.0)])] * 3)
    assert Image.open(tmp_path / "three.png").size == (1120, 840)
