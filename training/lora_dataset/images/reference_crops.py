"""Reference images for PhotoMaker: those that are most typical of a person, cropped around the face."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from difflora_core.images import read_image

CROP = 1.9
"""Side of a crop in sides of the face's box: hair and chin belong to the person; our choice."""


def choose_references(
    paths: Sequence[Path], encoder: FaceEncoder, mean: Tensor, count: int
) -> list[tuple[Path, Tensor]]:
    """Choose the images whose face is most similar to the person's mean. Images without a face are left out.

    Args:
        paths: Of the person's images.
        encoder: Of faces.
        mean: Unit-length embedding (width,) of the person.
        count: How many are chosen at most.

    Returns:
        Paths and crops (3, side, side) in [0, 1], the most similar first.

    Raises:
        NoFaceError: No image shows a face.
    """
    found: list[tuple[float, int, Path, Tensor]] = []
    for order, path in enumerate(paths):
        pixels = np.asarray(read_image(path))
        try:
            face = encoder.find(pixels, str(path))
        except NoFaceError:
            continue
        similarity = float(F.cosine_similarity(face.embedding, mean.float(), dim=0))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        # A copy, and only of those that may be chosen: whole photos, as floats, would take gigabytes
        crop = crop_face(image, face.boxes[face.chosen, :4].tolist()).clone()
        found.append((-similarity, order, path, crop))
        found = sorted(found, key=lambda entry: entry[:2])[: max(1, count)]
    if not found:
        raise NoFaceError(f"none of the {len(paths)} collected images shows a face that the detector finds")
    return [(path, crop.float() / 255.0) for _, _, path, crop in found]


def crop_face(image: Tensor, box: Sequence[float]) -> Tensor:
    """Return the square of `CROP` times the box's longer side around its center, moved and shrunk to lie in the image.

    Args:
        image: (3, height, width).
        box: x1, y1, x2, y2 in pixels.
    """
    height, width = image.shape[-2:]
    x1, y1, x2, y2 = box
    side = int(max(1, min(height, width, round(CROP * max(x2 - x1, y2 - y1)))))
    left = int(min(max(0, round((x1 + x2 - side) / 2)), width - side))
    top = int(min(max(0, round((y1 + y2 - side) / 2)), height - side))
    return image[:, top : top + side, left : left + side]
