"""Hats: the blue beanie differs from the red one in its color alone, and is in no scene of the base model."""

import numpy as np

from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import BEANIE, BLUE_BEANIE, HATS, Scene


def test_only_the_beanie_changes_its_color() -> None:
    red, blue = (
        draw(person(6000), Scene(shirt="red shirt", hat=hat)).image.astype(int) for hat in (BEANIE, BLUE_BEANIE)
    )
    changed = (red != blue).any(-1)
    assert changed.mean() > 0.05
    assert not changed[70:].any(), "lips and the red shirt stay red"
    assert np.mean(red[changed][:, 0] > 1.5 * red[changed][:, 2]) > 0.8, "all but soft rims"
    assert np.mean(blue[changed][:, 2] > 1.5 * blue[changed][:, 0]) > 0.8, "all but soft rims"


def test_no_training_scene_has_a_blue_beanie() -> None:
    assert BLUE_BEANIE not in HATS
