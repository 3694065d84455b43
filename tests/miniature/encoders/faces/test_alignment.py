"""Aligned crops are InsightFace's."""

import numpy as np
import pytest
from insightface.utils import face_align

from miniature.encoders.faces.alignment import TEMPLATE, alignment
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import random_scene

PEOPLE = split_people("validation")[:8]


@pytest.fixture(scope="module")
def portraits() -> list[list]:
    """Drawings of validation people, two of each, as `miniature.world.drawing.Drawing`."""
    return [[draw(person(i), random_scene(np.random.default_rng([8, i, k]))) for k in range(2)] for i in PEOPLE]


def test_alignment_is_insightface_s(portraits):
    landmarks = np.stack([drawing.landmarks for pair in portraits for drawing in pair])
    expected = np.stack([face_align.estimate_norm(marks) for marks in landmarks])
    np.testing.assert_allclose(alignment(landmarks), expected, atol=2e-3)
    np.testing.assert_array_equal(TEMPLATE, face_align.arcface_dst)
