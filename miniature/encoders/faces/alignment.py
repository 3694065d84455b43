"""Aligned face crops as `insightface.utils.face_align.norm_crop` makes them, many at once and with jitter."""

from __future__ import annotations

import cv2
import numpy as np

CROP = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
"""Where InsightFace puts the five landmarks in a 112 × 112 crop (insightface/utils/face_align.py, arcface_dst)."""


def alignment(landmarks: np.ndarray) -> np.ndarray:
    """Similarity transforms that bring landmarks onto the template: (n, 5, 2) → (n, 2, 3), float32, least squares.

    With complex coordinates w = a·z + b, so the best a is a ratio of two sums; same result as scikit-image's estimate.
    """
    z = landmarks[..., 0] + 1j * landmarks[..., 1]  # (n, 5)
    w = TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]  # (5,)
    z_mean = z.mean(axis=-1, keepdims=True)
    centered = z - z_mean
    a = (centered.conj() * (w - w.mean())).sum(axis=-1) / (np.abs(centered) ** 2).sum(axis=-1)
    b = w.mean() - a * z_mean[..., 0]
    rows = [np.stack([a.real, -a.imag, b.real], axis=-1), np.stack([a.imag, a.real, b.imag], axis=-1)]
    return np.stack(rows, axis=-2).astype(np.float32)


def aligned_crop(image: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Crop an image: uint8 (112, 112, 3), black outside of the image, as in InsightFace."""
    return cv2.warpAffine(image, transform, (CROP, CROP), borderValue=0.0)


def jittered(landmarks: np.ndarray, rng: np.random.Generator, pixels: float) -> np.ndarray:
    """Landmarks (n, 5, 2) with a detector's errors: each off by `pixels`, and each face as a whole by as much again."""
    each = rng.normal(0.0, pixels, landmarks.shape)
    together = rng.normal(0.0, pixels, (len(landmarks), 1, 2))
    return (landmarks + each + together).astype(np.float32)
