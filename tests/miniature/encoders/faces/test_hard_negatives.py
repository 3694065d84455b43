"""Every kind of object shows in an image, and no kind is a face to the shipped detector."""

import numpy as np
import pytest

from miniature.encoders.faces.face_analysis import load_face_analysis
from miniature.encoders.faces.hard_negatives import OBJECTS


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
def test_an_object_shows_and_is_no_face(kind):
    analysis = load_face_analysis("miniature")
    for seed in range(8):
        image, rng = np.full((256, 256, 3), 180, np.uint8), np.random.default_rng(seed)
        kind(image, rng, np.array([128.0, 128.0]), 160.0)
        assert (image != 180).any()
        assert analysis.get(image) == []
