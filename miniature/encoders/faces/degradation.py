"""Degraded images, as if generated, resized or compressed: what networks that measure must not be misled by."""

from __future__ import annotations

import cv2
import numpy as np


def degrade(image: np.ndarray, rng: np.random.Generator, color: float = 0.03) -> np.ndarray:
    """Copy an image with random blur or lost resolution or JPEG artifacts, noise, and slightly changed colors.

    Two images in five stay sharp, since references are not generated.

    Args:
        image: uint8 (height, width, 3).
        rng: Draws what happens to it.
        color: Standard deviation of the gain per channel; small, because colors are traits of a drawn person.
    """
    image = np.ascontiguousarray(image)
    if rng.random() < 0.6:
        kind = rng.integers(4)
        if kind == 0:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5) * image.shape[0] / 128)
        elif kind == 1:
            height, width = image.shape[:2]
            scale = rng.uniform(0.45, 0.9)
            small = cv2.resize(image, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_AREA)
            image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        elif kind == 2:
            _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))])
            image = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        else:
            # Flat areas and soft lines, as an autoencoder makes them
            image = cv2.bilateralFilter(image, 5, rng.uniform(20, 60), 3)
    pixels = image.astype(np.float32)
    if rng.random() < 0.5:
        pixels *= rng.normal(1.0, color, 3).astype(np.float32)
        pixels += rng.normal(0.0, 255 * color / 2)
    if rng.random() < 0.3:
        grain = rng.normal(0.0, rng.uniform(2.0, 9.0), (image.shape[0] // 2, image.shape[1] // 2, 3)).astype(np.float32)
        pixels += cv2.resize(grain, (image.shape[1], image.shape[0]))
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
