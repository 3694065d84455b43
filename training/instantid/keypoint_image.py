"""The picture of five facial keypoints that IdentityNet was trained with."""

import numpy as np

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""Of the left eye, right eye, nose, left and right corner of the mouth."""
NOSE = 2
SIDE, LINE, RADIUS = 1024, 4, 10
"""Pixels of a side for which the official pictures are drawn; half the width of their lines; radius of their discs."""
DIMMED = 0.6
"""Brightness of the lines."""
MIN_RADIUS = 2


def keypoint_image(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Draw discs at the keypoints and dimmed lines, thin ellipses, from the nose to the others, on black.

    Args:
        landmarks: (5, 2) in pixels: left and right eye, nose, left and right corner of the mouth.
        size: Pixels of a side; lines and discs are as thick as in the official pictures of 1024 pixels.

    Returns:
        uint8 (size, size, 3) RGB.
    """
    import cv2

    thickness = max(1, round(LINE * size / SIDE))
    radius = max(MIN_RADIUS, round(RADIUS * size / SIDE))
    canvas = np.zeros((size, size, 3), dtype=np.uint8)
    for number, (point, color) in enumerate(zip(landmarks, COLORS, strict=True)):
        if number != NOSE:
            across, middle = point - landmarks[NOSE], (point + landmarks[NOSE]) / 2
            angle = np.degrees(np.arctan2(across[1], across[0]))
            axes = (int(np.hypot(*across) / 2), thickness)
            outline = cv2.ellipse2Poly(tuple(middle.astype(int).tolist()), axes, int(angle), 0, 360, 1)
            cv2.fillConvexPoly(canvas, outline, color)
    canvas = (canvas * DIMMED).astype(np.uint8)
    for point, color in zip(landmarks, COLORS, strict=True):
        cv2.circle(canvas, tuple(point.astype(int).tolist()), radius, color, -1)
    return canvas
