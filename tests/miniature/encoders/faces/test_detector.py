"""The detector's outputs, without its trained weights."""

import pytest
import torch

from miniature.encoders.faces.detector import ANCHORS, STRIDES, Detector


@pytest.mark.parametrize("size", [(128, 128), (64, 160)])
def test_outputs_have_scrfd_s_shapes(size):
    height, width = size
    with torch.no_grad():
        outputs = Detector().eval()(torch.zeros(1, 3, height, width))
    rows = [2 * (height // stride) * (width // stride) for stride in STRIDES]
    assert [tuple(part.shape) for part in outputs] == [(n, k) for k in (1, 4, 10) for n in rows]
    assert all(float(score.min()) >= 0 and float(score.max()) <= 1 for score in outputs[:3])
    assert len(ANCHORS) == len(STRIDES)
