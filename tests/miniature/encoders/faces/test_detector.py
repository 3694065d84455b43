"""The detector's targets and outputs by hand, without its trained weights."""

import numpy as np
import pytest
import torch

from miniature.encoders.faces.detection_images import DetectionImage
from miniature.encoders.faces.detector import ANCHORS, STRIDES, Detector
from miniature.encoders.faces.train_detector import detection_loss, targets


def canvas_with_a_face() -> DetectionImage:
    """One face of 64 pixels in the middle of 128."""
    landmarks = np.array([[48.0, 54], [80, 54], [64, 66], [52, 80], [76, 80]])
    return DetectionImage(np.zeros((128, 128, 3), np.uint8), [np.array([36.0, 32, 92, 96])], [landmarks], [True])


def perfect_outputs(wanted: dict[str, torch.Tensor], side: int) -> tuple[torch.Tensor, ...]:
    """What a network says that agrees with the targets."""
    counts = [2 * (side // stride) ** 2 for stride in STRIDES]
    parts = [
        40.0 * wanted["label"][:, None] - 20.0,
        wanted["box"] * wanted["side"][:, None],
        wanted["landmarks"] * wanted["side"][:, None],
    ]
    return tuple(piece for part in parts for piece in part.split(counts))


def test_targets_decode_to_the_face_by_insightface_s_rule():
    canvas = canvas_with_a_face()
    wanted = targets([canvas])
    outputs = perfect_outputs(wanted, 128)
    start, found = 0, 0
    for level, stride in enumerate(STRIDES):
        cells = 128 // stride
        rows = 2 * cells * cells
        y, x = np.mgrid[:cells, :cells] * stride
        corners = np.stack([x, y], -1).reshape(-1, 2).repeat(2, axis=0)
        hit = (wanted["label"][start : start + rows] == 1).numpy()
        box, marks = (outputs[level + 3 * kind].numpy() * stride for kind in (1, 2))
        decoded = np.concatenate([corners - box[:, :2], corners + box[:, 2:]], axis=1)[hit]
        np.testing.assert_allclose(decoded, np.tile(canvas.boxes[0], (hit.sum(), 1)), atol=1e-3)
        placed = (corners[:, None] + marks.reshape(-1, 5, 2))[hit]
        np.testing.assert_allclose(placed, np.tile(canvas.landmarks[0], (hit.sum(), 1, 1)), atol=1e-3)
        start, found = start + rows, found + hit.sum()
    assert found > 0


def test_perfect_outputs_cost_nothing_and_a_miss_costs():
    wanted = targets([canvas_with_a_face()])
    outputs = perfect_outputs(wanted, 128)
    assert float(detection_loss(outputs, wanted)[0]) < 0.01
    silent = tuple(torch.full_like(part, -20.0) if index < 3 else part for index, part in enumerate(outputs))
    assert float(detection_loss(silent, wanted)[0]) > 5.0


def test_cut_off_faces_do_not_matter():
    canvas = canvas_with_a_face()
    canvas.clear = [False]
    wanted = targets([canvas])
    assert (wanted["label"] == 1).sum() == 0
    assert (wanted["label"] == -1).sum() > 0


@pytest.mark.parametrize("size", [(128, 128), (64, 160)])
def test_outputs_have_scrfd_s_shapes(size):
    height, width = size
    with torch.no_grad():
        outputs = Detector().eval()(torch.zeros(1, 3, height, width))
    rows = [2 * (height // stride) * (width // stride) for stride in STRIDES]
    assert [tuple(part.shape) for part in outputs] == [(n, k) for k in (1, 4, 10) for n in rows]
    assert all(float(score.min()) >= 0 and float(score.max()) <= 1 for score in outputs[:3])
    assert len(ANCHORS) == len(STRIDES)
