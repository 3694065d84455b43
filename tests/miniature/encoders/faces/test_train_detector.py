"""The detector's targets and loss."""

import numpy as np
import torch

from miniature.encoders.faces.detection_images import DetectionImage
from miniature.encoders.faces.detector import STRIDES
from miniature.encoders.faces.train_detector import detection_loss, targets


def image_with_a_face() -> DetectionImage:
    """One face of 64 pixels in the middle of 128."""
    landmarks = np.array([[48.0, 54], [80, 54], [64, 66], [52, 80], [76, 80]])
    return DetectionImage(np.zeros((128, 128, 3), np.uint8), [np.array([36.0, 32, 92, 96])], [landmarks], [True])


def perfect_outputs(expected: dict[str, torch.Tensor], side: int) -> tuple[torch.Tensor, ...]:
    """What a network says that agrees with the targets."""
    counts = [2 * (side // stride) ** 2 for stride in STRIDES]
    parts = [
        40.0 * expected["label"][:, None] - 20.0,
        expected["box"] * expected["side"][:, None],
        expected["landmarks"] * expected["side"][:, None],
    ]
    return tuple(piece for part in parts for piece in part.split(counts))


def test_targets_decode_to_the_face_by_insightface_s_rule():
    image = image_with_a_face()
    expected = targets([image])
    outputs = perfect_outputs(expected, 128)
    start, found = 0, 0
    for level, stride in enumerate(STRIDES):
        cells = 128 // stride
        rows = 2 * cells * cells
        y, x = np.mgrid[:cells, :cells] * stride
        corners = np.stack([x, y], -1).reshape(-1, 2).repeat(2, axis=0)
        hit = (expected["label"][start : start + rows] == 1).numpy()
        box, marks = (outputs[level + 3 * kind].numpy() * stride for kind in (1, 2))
        decoded = np.concatenate([corners - box[:, :2], corners + box[:, 2:]], axis=1)[hit]
        np.testing.assert_allclose(decoded, np.tile(image.boxes[0], (hit.sum(), 1)), atol=1e-3)
        placed = (corners[:, None] + marks.reshape(-1, 5, 2))[hit]
        np.testing.assert_allclose(placed, np.tile(image.landmarks[0], (hit.sum(), 1, 1)), atol=1e-3)
        start, found = start + rows, found + hit.sum()
    assert found > 0


def test_perfect_outputs_cost_nothing_and_a_miss_costs():
    expected = targets([image_with_a_face()])
    outputs = perfect_outputs(expected, 128)
    assert float(detection_loss(outputs, expected)[0]) < 0.01
    silent = tuple(torch.full_like(part, -20.0) if index < 3 else part for index, part in enumerate(outputs))
    assert float(detection_loss(silent, expected)[0]) > 5.0


def test_cut_off_faces_do_not_matter():
    image = image_with_a_face()
    image.clear = [False]
    expected = targets([image])
    assert (expected["label"] == 1).sum() == 0
    assert (expected["label"] == -1).sum() > 0
