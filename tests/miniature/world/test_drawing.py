"""Drawings are deterministic and show what a person and a scene say."""

import numpy as np
import pytest

from miniature.world.drawing import draw, draw_empty, landmarks_and_box
from miniature.world.people import TRAITS, person
from miniature.world.scenes import Scene, training_scene


def test_drawing_is_deterministic():
    scene = training_scene(3, 1)
    assert np.array_equal(draw(person(3), scene).image, draw(person(3), scene).image)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_size_scales_image_landmarks_and_box(size):
    drawing = draw(person(1), Scene(), size)
    assert drawing.image.shape == (size, size, 3)
    reference = draw(person(1), Scene(), 128)
    np.testing.assert_allclose(drawing.landmarks * 128 / size, reference.landmarks, rtol=1e-5)
    np.testing.assert_allclose(drawing.box * 128 / size, reference.box, rtol=1e-5)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 64"):
        draw(person(1), Scene(), 32)


def test_landmarks_lie_on_the_features():
    """The pixel at an eye's landmark is the dark pupil, whoever it is; the nose lies between eyes and mouth."""
    for index in range(6000, 6006):
        drawing = draw(person(index), Scene())
        eyes, nose, corners = drawing.landmarks[:2], drawing.landmarks[2], drawing.landmarks[3:]
        for x, y in eyes.round().astype(int):
            assert drawing.image[y - 1 : y + 2, x - 1 : x + 2].min() < 60
        assert eyes[0, 0] < nose[0] < eyes[1, 0]
        assert eyes[:, 1].max() < nose[1] < corners[:, 1].min()


def test_landmarks_without_drawing_are_the_same():
    scene = training_scene(5, 2)
    landmarks, box = landmarks_and_box(person(5), scene)
    drawing = draw(person(5), scene)
    assert np.array_equal(landmarks, drawing.landmarks)
    assert np.array_equal(box, drawing.box)


@pytest.mark.parametrize(
    "change",
    [
        {"expression": "smiling"},
        {"gaze": "looking left"},
        {"light": "light from the left"},
        {"glasses": "wearing glasses"},
        {"hat": "wearing a straw hat"},
        {"shirt": "red shirt"},
        {"background": "green"},
        {"yaw": 0.3},
    ],
    ids=lambda c: next(iter(c)),
)
def test_everything_in_a_scene_shows(change):
    plain, changed = draw(person(2), Scene()).image, draw(person(2), Scene(**change)).image
    assert np.abs(plain.astype(int) - changed).max() > 40


def test_every_trait_shows():
    who = person(2)
    for number, name in enumerate(TRAITS):
        low, high = who.traits.copy(), who.traits.copy()
        low[number], high[number] = -1.0, 1.0
        images = [draw(type(who)(who.index, traits), Scene()).image.astype(int) for traits in (low, high)]
        assert np.abs(images[0] - images[1]).max() > 8, name


def test_an_empty_scene_has_the_wall_only():
    empty = draw_empty(Scene(background="white"))
    assert empty.min() > 160  # darker towards the corners
    assert np.ptp(empty, axis=-1).max() < 12
