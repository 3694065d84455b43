"""Where the faces of an image are: InsightFace's detector at several sizes and on turned images."""

from typing import Any

import numpy as np

CROP = 112
"""Side of an aligned face in pixels, ArcFace's size."""
RETRY_SIZES = (640, 512, 384, 320, 256, 192)
"""Detector inputs in pixels, tried in this order: a tight crop fills a large one and is missed there."""
SURE, DOUBT_RATIO = 0.9992, 0.6
"""A face whose score is above the first is taken as it stands. Else the image is turned if that lowers the doubt, which
is 1 − score, below this share of it. Our choice on 80 images of the miniature's validation people: upright faces score
0.9992 and more; faces turned by a quarter score 0.9979 at most, and turning them back leaves a seventh of their doubt.
Upside down they score 0.9969 to 0.9998, so that this detector misses four in ten of them."""


def detect_turned(detector: Any, bgr: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Detect faces in an image and, unless one is found for sure, in its other three turns.

    A detector finds turned faces, too, but takes their features for those of an upright face.

    Args:
        detector: InsightFace's.
        bgr: uint8 (height, width, 3).

    Returns:
        The quarter turns, counterclockwise, of the least doubt; the image turned so; boxes and landmarks in it.
    """
    upright = best = (0, bgr, *detect(detector, bgr))
    if _doubt(upright[2]) < 1.0 - SURE:
        return upright
    for turns in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(bgr, turns))
        boxes, landmarks = detect(detector, turned)
        if _doubt(boxes) < min(_doubt(best[2]), DOUBT_RATIO * _doubt(upright[2])):
            best = (turns, turned, boxes, landmarks)
    return best


def detect(detector: Any, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find boxes with scores (faces, 5) and landmarks (faces, 5, 2), at the pack's own sizes or at smaller ones."""
    boxes, landmarks = detector.detect(bgr, metric="default")
    for size in RETRY_SIZES:
        if len(boxes):
            break
        boxes, landmarks = detector.detect(bgr, input_size=(size, size), metric="default")
    return boxes, landmarks


def turn_back(points: np.ndarray, turns: int, shape: tuple[int, ...]) -> np.ndarray:
    """Convert points (…, 2) of an image that was turned counterclockwise to points of the image as it was."""
    (height, width), (x, y) = shape[:2], np.moveaxis(points, -1, 0)
    back = {0: (x, y), 1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[turns]
    return np.stack(back, axis=-1)


def misplacement(detector: Any, bgr: np.ndarray) -> float:
    """Measure how far a square image is from an aligned face.

    Args:
        detector: InsightFace's.
        bgr: uint8 (side, side, 3).

    Returns:
        The longest way that aligning the face in it would move one of its corners, as a share of the side; 0 if no face
        is detected, as in some tight crops.
    """
    from insightface.utils import face_align

    boxes, landmarks = detect(detector, bgr)
    if not len(boxes):
        return 0.0
    surest = landmarks[boxes[:, 4].argmax()] * (CROP / len(bgr))
    matrix = face_align.estimate_norm(surest, CROP)  # (2, 3)
    corners = np.array([(0, 0), (CROP, 0), (0, CROP), (CROP, CROP)])
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    return float(np.linalg.norm(moved - corners, axis=1).max() / CROP)


def _doubt(boxes: np.ndarray) -> float:
    return 1.0 - float(boxes[:, 4].max(initial=0.0))
