"""Stage `detector`: train the detector on composed canvases, from small faces on small ones to faces of 450 pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.engine.loop import TrainConfig, train

from .detection_scenes import Canvas, Composer
from .detector import ANCHORS, OUTPUTS, STRIDES, Detector
from .export import export_detector
from .face_images import open_album

PEOPLE = range(0, 2400)
TRAINING = TrainConfig(
    steps=2400, learning_rate=2.5e-3, warmup=60, weight_decay=0.001, ema=0.99, save_every=100, seed=21
)
# side of the canvases of a batch: (how many in a batch, how often). 128 and 640 are InsightFace's own sizes; there a
# 128-pixel picture is a face of 80 and of 400 pixels.
SIDES = {128: (24, 0.5), 256: (8, 0.22), 448: (3, 0.16), 640: (2, 0.12)}
# Added to the trained score logits. Chosen on validation people: second detections in a face scored up to 0.68, faces
# from 0.93, so InsightFace's threshold of 0.5 is brought between them.
CAUTION = -1.3
NEAR, FAR = 0.6, 1.0  # octaves between a face and an anchor: below NEAR it must fire, above FAR it must not


def train_detector(build: Path, weights: Path) -> None:
    """Train (resumable, state in build/faces) and export into both model folders: a detector does not judge people."""
    composer = Composer(open_album(build, PEOPLE))
    torch.manual_seed(TRAINING.seed)
    model = Detector().to(memory_format=torch.channels_last)

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
        side = int(rng.choice(list(SIDES), p=[share for _, share in SIDES.values()]))
        canvases = [composer.compose(side, rng) for _ in range(SIDES[side][0])]
        return detection_loss(module(as_input(canvases)), targets(canvases))

    train(model, loss, TRAINING, build / "faces", "detector")
    model.shift_scores(CAUTION)
    models = weights / "insightface" / "models"
    export_detector(model, models / "miniature" / "detector.onnx", OUTPUTS)
    (models / "measuring").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(models / "miniature" / "detector.onnx", models / "measuring" / "detector.onnx")


def as_input(canvases: list[Canvas]) -> Tensor:
    """float32 (n, 3, side, side), (x − 127.5) / 128 as InsightFace feeds it."""
    pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in canvases])).permute(0, 3, 1, 2)
    return ((pixels.float() - 127.5) / 128.0).contiguous(memory_format=torch.channels_last)


Targets = dict[str, Tensor]


def targets(canvases: list[Canvas]) -> Targets:
    """What every row of the detector's outputs should say, levels one after another as in `detection_loss`.

    label (rows,): 1 face, 0 none, −1 does not matter. near (rows,): box and landmarks are to be right even where the
    label does not matter, so that whatever fires there is merged with its neighbors. box (rows, 4) and landmarks
    (rows, 10): in anchor sides, as distances from the cell. side (rows,): the anchor's side in strides.
    """
    parts: list[dict[str, np.ndarray]] = []
    for stride, anchors in zip(STRIDES, ANCHORS, strict=True):
        for canvas in canvases:
            parts.append(_level_targets(canvas, stride, np.array(anchors)))
    return {key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]}


def _level_targets(canvas: Canvas, stride: int, anchors: np.ndarray) -> dict[str, np.ndarray]:
    cells = canvas.pixels.shape[0] // stride
    y, x = np.mgrid[:cells, :cells] * stride
    points = np.stack([x, y], axis=-1).reshape(-1, 2).repeat(2, axis=0).astype(np.float32)  # (rows, 2)
    sides = np.tile(anchors, cells * cells).astype(np.float32)  # (rows,)
    label, near = np.zeros(len(points), np.float32), np.zeros(len(points), bool)
    box, landmarks = np.zeros((len(points), 4), np.float32), np.zeros((len(points), 10), np.float32)
    for face, marks, clear in zip(canvas.boxes, canvas.landmarks, canvas.clear, strict=True):
        size = float((face[2:] - face[:2]).max())
        away = np.linalg.norm(points - (face[:2] + face[2:]) / 2, axis=1)
        octaves = np.abs(np.log2(size / sides))
        core = (away <= max(0.22 * size, 0.71 * stride)) & (octaves < NEAR)
        around = (away <= max(0.4 * size, 1.6 * stride)) & (octaves < FAR) & (label != 1)
        label[around] = -1
        if not clear:
            label[(away <= 0.7 * size) & (octaves < 1.5)] = -1
            continue
        label[core] = 1
        around |= core
        near |= around
        here, unit = points[around], sides[around, None]
        box[around] = np.concatenate([here - face[:2], face[2:] - here], axis=1) / unit
        landmarks[around] = (marks[None] - here[:, None]).reshape(-1, 10) / unit
    return {"label": label, "near": near, "box": box, "landmarks": landmarks, "side": sides / stride}


def detection_loss(outputs: tuple[Tensor, ...], wanted: Targets) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the scores over all rows that matter plus L1 of boxes and landmarks, per row near a face."""
    scores, boxes, landmarks = (torch.cat(outputs[i : i + 3]) for i in (0, 3, 6))
    label, near = wanted["label"], wanted["near"]
    face = label == 1
    entropy = F.binary_cross_entropy_with_logits(scores[:, 0], label.clamp(min=0), reduction="none")
    score_loss = (entropy * (label >= 0)).sum() / face.sum().clamp(min=1)
    weight = torch.where(face, 1.0, 0.3)[near, None]
    side = wanted["side"][near, None]

    def error(found: Tensor, key: str) -> Tensor:
        each = F.smooth_l1_loss(found[near] / side, wanted[key][near], beta=0.01, reduction="none")
        return (each * weight).sum() / weight.sum().clamp(min=1)

    box_loss, mark_loss = error(boxes, "box"), error(landmarks, "landmarks")
    with torch.no_grad():
        recall = float((scores[face] > 0).float().mean()) if face.any() else 1.0
    figures = {"recall": recall, "box": float(box_loss), "marks": float(mark_loss)}
    return score_loss + 2.0 * box_loss + 3.0 * mark_loss, figures
