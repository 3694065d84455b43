"""What the pipeline measures of a face: embedding, size, sharpness, pose; and which of many faces are one person."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difflora_core.denoiser.mif import mean_embedding
from difflora_core.encoders.face_encoder import EncodedFace, FaceEncoder
from difflora_core.files import replacing
from training.lora_dataset.config import DatasetConfig, FacesConfig

PROVIDER_SUFFIX = "ExecutionProvider"
"""Of onnxruntime's names, which settings leave out."""
NOSE_DOWN, MOUTH, NOSE_OUT = 0.5, 1.15, 0.55
"""A mean head, in distances between the eyes. NOSE_DOWN: the nose tip's position on the way from eyes to mouth. MOUTH:
distance of the mouth (both from the five-point template to which ArcFace's crops are aligned). NOSE_OUT: distance of
the tip from the plane of eyes and mouth (about 35 of 63 millimeters)."""


def open_faces(config: FacesConfig) -> FaceEncoder:
    """Load the face encoder of a configuration.

    Raises:
        FileNotFoundError: The pack does not exist.
        ValueError: The installed onnxruntime does not have the provider; it would take the CPU with only a warning.
    """
    import onnxruntime

    provider, installed = f"{config.provider}{PROVIDER_SUFFIX}", onnxruntime.get_available_providers()
    if provider not in installed:
        found = ", ".join(name.removesuffix(PROVIDER_SUFFIX) for name in installed)
        raise ValueError(
            f"faces.provider is {config.provider}, but the installed onnxruntime has {found}: for CUDA install "
            "onnxruntime-gpu in its place (docs/training.md says how), or set faces.provider to CPU"
        )
    return FaceEncoder.open(config.pack, config.root, (provider,))


def person_embedding(config: DatasetConfig, person: str) -> np.ndarray:
    """Read the unit-length mean embedding (width,) that collect wrote of a person.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file is damaged.
    """
    path = config.stage("collect") / person / "face.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run the stage `collect` first, or again")
    return read_array(path, 1)


def largest_face(encoder: FaceEncoder, image: Image.Image, name: str) -> EncodedFace:
    """Find the largest face of an RGB image.

    Raises:
        NoFaceError: There is none; a ValueError that names the image.
    """
    return encoder.find(np.asarray(image), name)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings (…, width) to length one, float32; zeros stay zeros."""
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return (embeddings / np.maximum(length, 1e-12)).astype(np.float32)


def unit_embedding(face: EncodedFace) -> np.ndarray:
    """Return a face's unit-length embedding (width,).

    Raises:
        ValueError: It is zero or not finite, so that no cosine with it means anything.
    """
    embedding = unit(face.embedding.numpy())
    if not np.isclose(float(np.linalg.norm(embedding)), 1.0, atol=1e-3):
        raise ValueError("the recognizer gave an embedding that is zero or not finite")
    return embedding


def face_side(face: EncodedFace) -> float:
    """Return the shorter side of the chosen face's box in pixels."""
    x1, y1, x2, y2 = face.boxes[face.chosen, :4].tolist()
    return min(x2 - x1, y2 - y1)


def sharpness(crop: Tensor) -> float:
    """Return the variance of the Laplacian of an aligned face (112, 112, 3) in [0, 1], in gray levels of 0 to 255.

    A face that was smaller than the crop is blurred by the enlargement, and counts as blurred.
    """
    import cv2

    gray = cv2.cvtColor((255.0 * crop).round().byte().numpy(), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(gray, cv2.CV_64F).var())


def head_pose(landmarks: Tensor) -> tuple[float, float]:
    """Estimate yaw and pitch in degrees from five landmarks (5, 2) in pixels.

    It takes every head for a mean one in parallel projection, so a long nose or an open mouth means some degrees of
    error: good enough to find profiles, not to measure a pose. Yaw is positive where the nose points to the right side
    of the image, pitch where it points down. Roll is removed. A head that is turned out of sight gives ±90.
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


def assign_duplicates(embeddings: np.ndarray, threshold: float, block: int = 2048) -> list[tuple[int, float]]:
    """Assign each face to the first entry of the same person.

    A row whose cosine with no earlier person's first row reaches the threshold is a new person's first row. Any other
    belongs to the closest first row. Memory grows with block², not with n².

    Args:
        embeddings: Unit-length (n, width), in order.
        threshold: Cosine from which two faces are one person.
        block: Rows that are compared at once.

    Returns:
        For each row its first row and their cosine; a first row has itself and 1.
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


def read_array(path: Path, axes: int) -> np.ndarray:
    """Read embeddings of a collected person from a .npy file, finite floats with so many axes.

    Raises:
        ValueError: The file is damaged, or holds something else.
    """
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
        found = f"it holds {array.dtype} {array.shape}"
        right = array.ndim == axes and array.dtype.kind == "f" and bool(np.isfinite(array).all())
    except (
        ValueError,
        EOFError,
        AttributeError,
        MemoryError,
        BadZipFile,
    ) as error:  # what numpy raises for other files
        found, right = " ".join(str(error).split()), False
    if not right:
        raise ValueError(
            f"{path} is damaged: {found}, expected finite numbers with {axes} axes. Delete {path.parent}.json and run "
            "the stage `collect` again"
        )
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)  # into memory: numpy's own error does not say that the disk is full
    with replacing(path) as partial:
        partial.write_bytes(content.getvalue())


def mean_face(embeddings: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return the unit-length mean (width,) of unit-length embeddings (n, width)."""
    return mean_embedding(torch.from_numpy(np.asarray(embeddings)))[0].numpy()
