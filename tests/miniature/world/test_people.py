"""The drawn world: deterministic, divided once, and drawn as its words say."""

import numpy as np
import pytest

from miniature.world.drawing import draw, draw_empty, landmarks_and_box
from miniature.world.image_blocks import BASE_PEOPLE, training_blocks
from miniature.world.people import SPLITS, TRAITS, person, split_people
from miniature.world.scenes import Scene, caption, reference_scene, training_scene


def test_splits_never_overlap_and_training_stays_in_its_own():
    people = [set(r) for r in SPLITS.values()]
    assert sum(map(len, people)) == len(set.union(*people))
    trained = {i for block in training_blocks() for i in block.people}
    assert trained <= set(split_people("train"))
    assert len(trained) == BASE_PEOPLE


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation, held_out"):
        split_people("test")


def test_a_person_is_the_same_every_time_and_nobody_else():
    assert np.array_equal(person(7).traits, person(7).traits)
    assert not np.array_equal(person(7).traits, person(8).traits)
    assert person(7).traits.shape == (len(TRAITS),)


def test_drawing_is_deterministic():
    scene = training_scene(3, 1)
    assert np.array_equal(draw(person(3), scene).image, draw(person(3), scene).image)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_size_scales_picture_landmarks_and_box(size):
    picture = draw(person(1), Scene(), size)
    assert picture.image.shape == (size, size, 3)
    reference = draw(person(1), Scene(), 128)
    np.testing.assert_allclose(picture.landmarks * 128 / size, reference.landmarks, rtol=1e-5)
    np.testing.assert_allclose(picture.box * 128 / size, reference.box, rtol=1e-5)


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="at least 64"):
        draw(person(1), Scene(), 32)


def test_landmarks_lie_on_the_features():
    """The pixel at an eye's landmark is the dark pupil, whoever it is; the nose lies between eyes and mouth."""
    for index in range(6000, 6006):
        picture = draw(person(index), Scene())
        eyes, nose, corners = picture.landmarks[:2], picture.landmarks[2], picture.landmarks[3:]
        for x, y in eyes.round().astype(int):
            assert picture.image[y - 1 : y + 2, x - 1 : x + 2].min() < 60
        assert eyes[0, 0] < nose[0] < eyes[1, 0]
        assert eyes[:, 1].max() < nose[1] < corners[:, 1].min()


def test_landmarks_without_drawing_are_the_same():
    scene = training_scene(5, 2)
    landmarks, box = landmarks_and_box(person(5), scene)
    picture = draw(person(5), scene)
    assert np.array_equal(landmarks, picture.landmarks)
    assert np.array_equal(box, picture.box)


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
        pictures = [draw(type(who)(who.index, traits), Scene()).image.astype(int) for traits in (low, high)]
        assert np.abs(pictures[0] - pictures[1]).max() > 8, name


def test_captions_name_what_is_special_and_leave_open_what_is_asked():
    scene = Scene(expression="sad", glasses="wearing glasses", shirt="red shirt", background="pink")
    assert caption(scene) == "a portrait of a person, sad, wearing glasses, red shirt, pink background"
    assert caption(scene, frozenset({"shirt", "background"})) == "a portrait of a person, sad, wearing glasses"


def test_reference_scenes_leave_the_head_free():
    scenes = [reference_scene(np.random.default_rng(i)) for i in range(20)]
    assert not any(s.hat or s.glasses for s in scenes)


def test_an_empty_scene_has_the_wall_only():
    empty = draw_empty(Scene(background="white"))
    assert empty.min() > 220
