"""What the pipeline measures of a face: embedding, size, sharpness, pose; and which of many embeddings are one."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from difflora_core.encoders import EncodedFace, FaceEncoder
from difflora_core.files import replacing
from training.lora_dataset.config import DatasetConfig, FacesConfig

# A mean head, in distances between the eyes: where the nose tip is on the way from the eyes down to the mouth and how
# far the mouth is (both of the five-point template that ArcFace's crops are aligned to), how far the tip stands out of
# the plane of eyes and mouth (about 35 of 63 millimeters).
NOSE_DOWN, MOUTH, NOSE_OUT = 0.5, 1.15, 0.55


def open_faces(config: FacesConfig) -> FaceEncoder:
    """The face encoder of a configuration. Raises FileNotFoundError if the pack is not there."""
    return FaceEncoder.open(config.pack, config.root, (f"{config.provider}ExecutionProvider",))


def person_embedding(config: DatasetConfig, person: str) -> np.ndarray:
    """The unit-length mean embedding (width,) that collect left of a person.

    Raises FileNotFoundError if there is none.
    """
    path = config.stage("collect") / person / "face.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run the stage `collect` first, or again")
    return np.load(path, allow_pickle=False)


def largest_face(encoder: FaceEncoder, picture: Image.Image, name: str) -> EncodedFace:
    """The largest face of an RGB picture. Raises NoFaceError, a ValueError, naming the picture."""
    return encoder.largest(np.asarray(picture), name)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (…, width) scaled to length one, float32; zeros stay zeros."""
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return (embeddings / np.maximum(length, 1e-12)).astype(np.float32)


def face_side(face: EncodedFace) -> float:
    """The shorter side of the chosen face's box in pixels."""
    x1, y1, x2, y2 = face.boxes[face.chosen, :4].tolist()
    return min(x2 - x1, y2 - y1)


def sharpness(crop: Tensor) -> float:
    """Variance of the Laplacian of an aligned face (112, 112, 3) in [0, 1], taken in grey values of 0 to 255.

    A face that was smaller than the crop is blurred by the enlargement, and counts as such.
    """
    import cv2

    grey = cv2.cvtColor((255.0 * crop).round().byte().numpy(), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def head_pose(landmarks: Tensor) -> tuple[float, float]:
    """An estimate of yaw and pitch in degrees from five landmarks (5, 2) in pixels.

    It takes every head for a mean one in parallel projection, so a long nose or an open mouth is some degrees of error:
    good enough to find profiles, not to measure a pose. Yaw is positive where the nose points to the right side of the
    picture, pitch where it points down. Roll is taken out. A head that is turned out of sight gives ±90.
    """
    left, right, nose, *corners = landmarks.double().numpy()
    eyes, mouth = (left + right) / 2, (corners[0] + corners[1]) / 2
    between = float(np.hypot(*(right - left)))
    if between == 0:
        return 90.0, 0.0
    across = (right - left) / between
    down = np.array([-across[1], across[0]])
    height = float((mouth - eyes) @ down)
    if height <= 0:
        return 0.0, 90.0
    share = float((nose - eyes) @ down) / height
    aside = float((nose - eyes - share * (mouth - eyes)) @ across)
    yaw = math.atan2(aside, NOSE_OUT * between)
    pitch = math.atan2((share - NOSE_DOWN) * MOUTH, NOSE_OUT * math.cos(yaw))
    return math.degrees(yaw), math.degrees(pitch)


def first_of_each(embeddings: np.ndarray, threshold: float, block: int = 2048) -> list[tuple[int, float]]:
    """For each row of unit-length embeddings (n, width), in order: which earlier row it repeats, and their cosine.

    A row whose cosine with no earlier first one reaches the threshold is a first one itself and gets (its own index,
    1). Otherwise it belongs to the closest of them. Memory grows with block², not with n².
    """
    found: list[tuple[int, float]] = []
    firsts: list[int] = []
    for start in range(0, len(embeddings), block):
        rows = embeddings[start : start + block]
        best, where = np.full(len(rows), -2.0, np.float32), np.zeros(len(rows), np.int64)
        for at in range(0, len(firsts), block):
            known = np.asarray(firsts[at : at + block])
            cosines = rows @ embeddings[known].T  # (rows of this block, first ones of earlier blocks)
            closest = cosines.argmax(1)
            value = cosines[np.arange(len(rows)), closest]
            better = value > best
            best[better], where[better] = value[better], known[closest[better]]
        inside = rows @ rows.T
        new: list[int] = []
        for row in range(len(rows)):
            if new and (value := inside[row, new].max()) > best[row]:
                best[row], where[row] = value, start + new[int(inside[row, new].argmax())]
            if best[row] >= threshold:
                found.append((int(where[row]), float(best[row])))
            else:
                new.append(row)
                found.append((start + row, 1.0))
        firsts += [start + row for row in new]
    return found


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file so that at any moment it is absent, the old one or the whole new one."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)  # into memory: numpy's own error of a full disk does not say so
    with replacing(path) as partial:
        partial.write_bytes(content.getvalue())


def mean_face(embeddings: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Unit-length mean (width,) of unit-length embeddings (n, width)."""
    return unit(np.mean(np.asarray(embeddings), axis=0))
