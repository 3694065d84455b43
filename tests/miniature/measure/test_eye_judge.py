"""The eye judge's geometry and words, and the shipped one on drawings of validation people."""

import numpy as np
import pytest
import torch

from miniature.measure.eye_judge import CROP, Eyes, color_word, eye_crops, load_eye_judge, measure_eyes
from miniature.paths import WEIGHTS
from miniature.world.colors import EYES
from miniature.world.drawing import draw
from miniature.world.people import EYE_COLORS, eye_word, person, split_people
from miniature.world.scenes import random_scene

PEOPLE = split_people("validation")[:40]


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    drawings = [draw(person(index), random_scene(np.random.default_rng(index))) for index in PEOPLE]
    images, landmarks = np.stack([one.image for one in drawings]), np.stack([one.landmarks for one in drawings])
    return measure_eyes(load_eye_judge(WEIGHTS), images, landmarks)


def test_a_crop_is_centered_and_repeats_the_edge_beyond_the_image():
    images = np.zeros((2, 128, 128, 3), np.uint8)
    images[0, 60, 50], images[1, :, 0] = 255, 7
    crops = eye_crops(images, np.array([[50.0, 60.0], [0.0, 64.0]]))
    assert crops.shape == (2, CROP, CROP, 3)
    assert (crops[0, CROP // 2, CROP // 2] == 255).all()
    assert (crops[1, :, : CROP // 2] == 7).all()


def test_every_word_has_its_color():
    assert [color_word(torch.tensor(color)) for color in EYES] == list(EYE_COLORS)


def test_eyes_agree_in_color_and_in_size():
    colors = torch.tensor([[[50.0, 120, 220], [55, 115, 215]], [[50, 120, 220], [104, 56, 20]], [[0, 0, 0], [0, 0, 0]]])
    radii = torch.tensor([[6.0, 6.5], [6.0, 6.0], [4.0, 6.0]])
    assert Eyes(colors, radii).agree().tolist() == [True, False, False]


def test_drawn_eyes_agree(eyes):
    assert eyes.agree().float().mean() >= 0.95


def test_drawn_eyes_have_their_color(eyes):
    right = [word == eye_word(person(index)) for word, index in zip(eyes.words(), PEOPLE, strict=True)]
    assert np.mean(right) > 0.7  # five words on a continuous palette: a color near a border may have either


def test_eyes_of_two_people_seldom_agree(eyes):
    mixed = Eyes(torch.stack([eyes.colors[:, 0], eyes.colors[:, 1].roll(1, 0)], 1), eyes.radii)
    assert mixed.agree().float().mean() < 0.5
