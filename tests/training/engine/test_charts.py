"""Charts: a line is where its points are, what lies beyond the chart at its edge; histograms of any values."""

import numpy as np
import pytest
from PIL import Image

from training.engine.charts import COLORS, FAILED, PASSED, Histogram, Line, Panel, draw_histograms, draw_panels

LEGEND = 60  # pixels at the foot


def heights(path, color: int) -> list[int]:
    """Rows of the chart that have this color."""
    image = Image.open(path).convert("RGB")
    rgb = tuple(int(COLORS[color][i : i + 2], 16) for i in (1, 3, 5))
    return [
        y for y in range(image.height - LEGEND) if any(image.getpixel((x, y)) == rgb for x in range(0, image.width, 3))
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


def test_ticks_have_the_labels_that_are_given(tmp_path):
    shown = {}
    for name, ticks in {"plain": (1, 4), "same": {1: "1", 4: "4"}, "named": {1: "none", 4: "4"}}.items():
        draw_panels(tmp_path / f"{name}.png", [Panel("", "", [level("", 0, 1.0)], ticks)])
        shown[name] = np.asarray(Image.open(tmp_path / f"{name}.png"))
    assert np.array_equal(shown["plain"], shown["same"])
    assert not np.array_equal(shown["plain"], shown["named"])


def test_panels_stand_side_by_side(tmp_path):
    draw_panels(tmp_path / "three.png", [Panel("", "", [level("", 0, 1.0)])] * 3)
    assert Image.open(tmp_path / "three.png").size == (1120, 840)


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0], [-1.0, 5.0], [0.1, 0.25, 7.5]])
def test_histograms_of_few_values(tmp_path, values):
    draw_histograms(tmp_path / "h.png", [Histogram("few", values, minimum=2.0), Histogram("no threshold", values)])
    assert Image.open(tmp_path / "h.png").size == (880, 300)


def test_values_at_a_threshold_pass():
    assert Histogram("", [1.0, 2.0, 3.0], minimum=2.0).passed().tolist() == [False, True, True]
    assert Histogram("", [1.0, 2.0, 3.0], maximum=2.0).passed().tolist() == [True, True, False]
    assert Histogram("", [1.0, 2.0, 3.0], 1.5, 2.5).passed().tolist() == [False, True, False]


def test_bars_show_what_passes_and_what_fails(tmp_path):
    draw_histograms(tmp_path / "h.png", [Histogram("", [1.0] * 3 + [9.0] * 9, minimum=5.0)])
    image = np.asarray(Image.open(tmp_path / "h.png").convert("RGB"))
    passed, failed = (
        (image == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum() for color in (PASSED, FAILED)
    )
    assert passed == pytest.approx(3 * failed, rel=0.1)
