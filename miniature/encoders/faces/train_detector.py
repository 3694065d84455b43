"""Stage `faces`: train the detector on composed images of 128 to 640 pixels, with faces of up to 450 pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.engine.config import TrainConfig
from training.engine.loop import train

from .detection_images import Composer, DetectionImage
from .detector import ANCHORS, OUTPUTS, STRIDES, Detector
from .export import export_detector
from .face_images import open_face_images

PEOPLE = range(0, 2400)
TRAINING = TrainConfig(
    steps=6000, learning_rate=2.5e-3, warmup=60, weight_decay=0.001, ema=0.99, save_every=100, seed=21
)
SIDES = {128: (24, 0.5), 256: (8, 0.22), 448: (3, 0.16), 640: (2, 0.12)}
"""Side of the images of a batch: how many in a batch, how often. InsightFace resizes to 128 and to 640, which makes the
face of a 128-pixel image 80 and 400 pixels large."""
SCORE_SHIFT = -1.3
"""Added to the trained score logits. Chosen on validation people: second detections in a face scored up to 0.68, faces
from 0.93; the shift brings InsightFace's threshold of 0.5 between them."""
NEAR, FAR = 0.6, 1.0
"""Octaves between the sizes of a face and an anchor: below NEAR the anchor must detect it, above FAR it must not."""
IGNORED_OCTAVES = 1.5
"""Below which no anchor is trained at an unclear face, which may be detected or not."""
CORE, AROUND = (0.22, 0.71), (0.4, 1.6)
"""Distances from a face's middle, in sizes of the face and in strides, of which the larger counts: up to CORE a cell
must detect it, from there to AROUND its score is ignored."""
UNCLEAR = 0.7
"""In sizes of the face: up to there from an unclear face's middle scores are ignored."""


def train_detector(build: Path, weights: Path) -> None:
    """Train (resumable, state in build/faces) and export into both model folders: both recognizers use one detector."""
    composer = Composer(open_face_images(build, PEOPLE))
    torch.manual_seed(TRAINING.seed)
    model = Detector().to(memory_format=torch.channels_last)

    def loss(module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
        side = int(rng.choice(list(SIDES), p=[share for _, share in SIDES.values()]))
        images = [composer.compose(side, rng) for _ in range(SIDES[side][0])]
        return detection_loss(module(as_input(images)), targets(images))

    train(model, loss, TRAINING, build / "faces", "detector")
    model.shift_scores(SCORE_SHIFT)
    models = weights / "insightface" / "models"
    export_detector(model, models / "miniature" / "detector.onnx", OUTPUTS)
    (models / "measuring").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(models / "miniature" / "detector.onnx", models / "measuring" / "detector.onnx")


def as_input(images: list[DetectionImage]) -> Tensor:
    """float32 (n, 3, side, side), (x − 127.5) / 128 as InsightFace feeds it."""
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2)
    return ((pixels.float() - 127.5) / 128.0).contiguous(memory_format=torch.channels_last)


Targets = dict[str, Tensor]


def targets(images: list[DetectionImage]) -> Targets:
    """Targets for every row of the detector's outputs, level after level as in `detection_loss`.

    Returns:
        label (rows,): 1 face, 0 none, −1 ignored. near (rows,): whether box and landmarks are trained, also where the
        label is ignored, so that detections there are merged with their neighbors. box (rows, 4) and landmarks
        (rows, 10): in anchor sides, as distances from the cell. side (rows,): the anchor's side in strides.
    """
    parts: list[dict[str, np.ndarray]] = []
    for stride, anchors in zip(STRIDES, ANCHORS, strict=True):
        for image in images:
            parts.append(_level_targets(image, stride, np.array(anchors)))
    return {key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]}


def _level_targets(image: DetectionImage, stride: int, anchors: np.ndarray) -> dict[str, np.ndarray]:
    cells = image.pixels.shape[0] // stride
    y, x = np.mgrid[:cells, :cells] * stride
    points = np.stack([x, y], axis=-1).reshape(-1, 2).repeat(2, axis=0).astype(np.float32)  # (rows, 2)
    sides = np.tile(anchors, cells * cells).astype(np.float32)  # (rows,)
    label, near = np.zeros(len(points), np.float32), np.zeros(len(points), bool)
    box, landmarks = np.zeros((len(points), 4), np.float32), np.zeros((len(points), 10), np.float32)
    for face, marks, clear in zip(image.boxes, image.landmarks, image.clear, strict=True):
        size = float((face[2:] - face[:2]).max())
        away = np.linalg.norm(points - (face[:2] + face[2:]) / 2, axis=1)
        octaves = np.abs(np.log2(size / sides))
        core_radius, around_radius = (max(sizes * size, strides * stride) for sizes, strides in (CORE, AROUND))
        core = (away <= core_radius) & (octaves < NEAR)
        around = (away <= around_radius) & (octaves < FAR) & (label != 1)
        label[around] = -1
        if not clear:
            label[(away <= UNCLEAR * size) & (octaves < IGNORED_OCTAVES)] = -1
            continue
        label[core] = 1
        trained = core | around
        near |= trained
        here, unit = points[trained], sides[trained, None]
        box[trained] = np.concatenate([here - face[:2], face[2:] - here], axis=1) / unit
        landmarks[trained] = (marks[None] - here[:, None]).reshape(-1, 10) / unit
    return {"label": label, "near": near, "box": box, "landmarks": landmarks, "side": sides / stride}


def detection_loss(outputs: tuple[Tensor, ...], expected: Targets) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the scores over all rows that are not ignored plus L1 of boxes and landmarks near a face."""
    scores, boxes, landmarks = (torch.cat(outputs[i : i + 3]) for i in (0, 3, 6))
    label, near = expected["label"], expected["near"]
    face = label == 1
    entropy = F.binary_cross_entropy_with_logits(scores[:, 0], label.clamp(min=0), reduction="none")
    score_loss = (entropy * (label >= 0)).sum() / face.sum().clamp(min=1)
    weight = torch.where(face, 1.0, 0.3)[near, None]
    side = expected["side"][near, None]

    def error(found: Tensor, key: str) -> Tensor:
        each = F.smooth_l1_loss(found[near] / side, expected[key][near], beta=0.01, reduction="none")
        return (each * weight).sum() / weight.sum().clamp(min=1)

    box_loss, mark_loss = error(boxes, "box"), error(landmarks, "landmarks")
    with torch.no_grad():
        recall = float((scores[face] > 0).float().mean()) if face.any() else 1.0
    metrics = {"recall": recall, "box": float(box_loss), "marks": float(mark_loss)}
    return score_loss + 2.0 * box_loss + 3.0 * mark_loss, metrics
