"""Aligned crops are InsightFace's."""

import numpy as np
from insightface.utils import face_align

from miniature.encoders.faces.alignment import TEMPLATE, alignment


def test_alignment_is_insightface_s(portraits):
    landmarks = np.stack([drawing.landmarks for pair in portraits for drawing in pair])
    expected = np.stack([face_align.estimate_norm(marks) for marks in landmarks])
    np.testing.assert_allclose(alignment(landmarks), expected, atol=2e-3)
    np.testing.assert_array_equal(TEMPLATE, face_align.arcface_dst)
