"""The frozen face encoder: InsightFace's detector and recognizer."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from ..files import describe_content
from .face_detection import CROP, detect_turned, misplacement, turn_back

MIN_FACE_SIDE = 32
"""Side of an aligned face in pixels below which too little of a person is left; our choice."""

MOSTLY_WHITE = 0.9
"""Share of white pixels above which an image shows nothing; our choice."""

Choice = Literal["largest", "left to right", "highest score"]
"""The order in which the faces of an image are counted."""


class NoFaceError(ValueError):
    """A reference image in which the chosen face was not found."""


@dataclass(frozen=True)
class EncodedFace:
    """The face of one reference image."""

    embedding: Tensor
    """float32 (width,), as the recognizer gives it, without normalization."""
    crop: Tensor
    """float32 (112, 112, 3) RGB in [0, 1], aligned by the landmarks."""
    boxes: Tensor
    """float32 (faces, 5): every face that was found, in the order in which they are counted: x1, y1, x2, y2 in pixels
    of the image, and the score."""
    chosen: int = 0
    """Row of `boxes` that was encoded."""
    landmarks: Tensor | None = None
    """float32 (5, 2) in pixels of the image: left and right eye, nose tip, left and right corner of the mouth, "left"
    being left in the image; None for an image that already was an aligned face."""
    quarter_turns: int = 0
    """By how many quarter turns counterclockwise the image was turned to find the face upright, 0 to 3; boxes and
    landmarks are of the image as it was given."""
    misplacement: float = 0.0
    """Of an image that was said to be an aligned face: how far it is from one, see `face_detection.misplacement`."""


Provider = str | tuple[str, dict[str, int]]
"""A provider of onnxruntime by name, perhaps with options."""


def providers_for(device: torch.device) -> list[Provider]:
    """List onnxruntime's providers for a torch device: CUDA's where that is installed, and always the CPU's."""
    import onnxruntime

    found: list[Provider] = ["CPUExecutionProvider"]
    cuda = "CUDAExecutionProvider"
    if device.type == "cuda" and cuda in onnxruntime.get_available_providers():
        found.insert(0, (cuda, {"device_id": device.index}) if device.index else cuda)  # by default it is the first GPU
    return found


class FaceEncoder:
    """InsightFace's detector and recognizer on reference images."""

    def __init__(self, analysis: Any) -> None:
        """Use a prepared `insightface.app.FaceAnalysis`.

        Args:
            analysis: With the tasks detection and recognition.

        Raises:
            ValueError: It is something else, or has no recognizer.
        """
        if not hasattr(analysis, "models") or not hasattr(analysis, "det_model"):
            raise ValueError(
                f"Face analysis is a {type(analysis).__module__}.{type(analysis).__name__}, expected InsightFace's "
                "FaceAnalysis: connect Load Face Analysis, or another pack's InsightFace loader."
            )
        if "recognition" not in analysis.models:
            raise ValueError(
                f"The face model pack has {', '.join(sorted(analysis.models)) or 'no models'} but no recognizer: "
                "choose a pack with an ArcFace model, for instance buffalo_l."
            )
        # scikit-image finds a function of InsightFace's outdated, once per image
        warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning, r"insightface\.")
        self.analysis = analysis

    @property
    def name(self) -> str:
        """Name of the model pack; embeddings of two packs are not interchangeable."""
        return Path(self.analysis.model_dir).name

    @classmethod
    def open(cls, name: str, root: str | Path, providers: Sequence[Provider] = ("CPUExecutionProvider",)) -> Self:
        """Load a model pack; nothing is downloaded.

        Args:
            name: Name of the pack.
            root: The folder that has it in models/name.
            providers: Onnxruntime's, in order of preference.

        Raises:
            FileNotFoundError: The pack is not there; InsightFace itself would download one.
            ValueError: The pack has no detector, or one of its files is damaged or something else.
        """
        folder = Path(root) / "models" / name
        if not any(folder.glob("*.onnx")):
            nested = next(folder.glob("*/*.onnx"), None)
            hint = f" There are some in {nested.parent}: move them up one folder." if nested else ""
            raise FileNotFoundError(f"No face models (*.onnx) in {folder}.{hint}")
        import onnxruntime
        from insightface.app import FaceAnalysis

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # one per core, the default, is slow beside other work
        try:
            analysis = FaceAnalysis(
                name=str(folder),
                providers=list(providers),
                sess_options=options,
                allowed_modules=["detection", "recognition"],
            )
        except Exception as error:  # onnxruntime's own kinds, and an assertion where there is no detector
            raise ValueError(_describe_pack(folder, error)) from error
        analysis.prepare(ctx_id=0)  # with a number below 0 InsightFace takes the CPU, whatever the providers are
        return cls(analysis)

    def find(
        self,
        image: np.ndarray,
        name: str = "the image",
        choose: Choice = "largest",
        index: int = 0,
        aligned: bool = False,
    ) -> EncodedFace:
        """Find and encode one face of an image.

        Args:
            image: uint8 (height, width, 3) RGB.
            name: What errors call it.
            choose: The order of several faces.
            index: Position of the face in that order, from 0 on.
            aligned: The image is an aligned face, as the recognizer takes it. A face is detected only to measure its
                `misplacement`.

        Raises:
            NoFaceError: The image has no such face; it is named.
            ValueError: There is no such order, or the position is negative.
        """
        if choose not in get_args(Choice) or index < 0:
            raise ValueError(
                f"faces are counted {', '.join(get_args(Choice))}, from 0 on; found number {index}, {choose!r}"
            )
        return self._encode_aligned(image, name) if aligned else self._encode(image, name, choose, index)

    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode the largest face of each image.

        Args:
            images: uint8 (height, width, 3) RGB each.

        Returns:
            Embeddings (images, width).

        Raises:
            NoFaceError: An image has no face; it is named.
        """
        return torch.stack([self.find(x, f"image {i} of {len(images)}").embedding for i, x in enumerate(images, 1)])

    def _encode(self, image: np.ndarray, name: str, choose: Choice, index: int) -> EncodedFace:
        from insightface.utils import face_align

        turns, bgr, boxes, landmarks = detect_turned(self.analysis.det_model, np.ascontiguousarray(image[..., ::-1]))
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        keys = {"largest": -area, "left to right": boxes[:, 0], "highest score": -boxes[:, 4]}
        order = np.argsort(keys[choose], kind="stable")
        boxes, landmarks = boxes[order], landmarks[order]
        corners = turn_back(boxes[:, :4].reshape(-1, 2, 2), turns, image.shape)
        given = np.concatenate([corners.min(1), corners.max(1), boxes[:, 4:]], axis=1)
        if len(boxes) <= index:
            described = f"{name} ({image.shape[1]} × {image.shape[0]} pixels)"
            raise NoFaceError(_describe_faces(given, described, choose, index) + _describe_white(image))
        crop = face_align.norm_crop(bgr, landmark=landmarks[index], image_size=CROP)
        points = turn_back(landmarks[index], turns, image.shape)
        return EncodedFace(
            self._embed(crop),
            _rgb_from_bgr(crop),
            torch.from_numpy(given.astype(np.float32)),
            index,
            torch.from_numpy(points.astype(np.float32)),
            turns,
        )

    def _encode_aligned(self, image: np.ndarray, name: str) -> EncodedFace:
        import cv2

        height, width = image.shape[:2]
        if min(height, width) < MIN_FACE_SIDE:
            raise NoFaceError(
                f"{name} is {width} × {height} pixels: an aligned face needs at least {MIN_FACE_SIDE} a side, better "
                f"{CROP}."
            )
        if height != width:  # resizing would squash the face
            raise NoFaceError(
                f"{name} is {width} × {height} pixels: an aligned face is square. Switch `aligned` off, so that the "
                "face is detected and aligned."
            )
        bgr = np.ascontiguousarray(image[..., ::-1])
        crop = cv2.resize(bgr, (CROP, CROP), interpolation=cv2.INTER_AREA)
        whole = torch.tensor([[0.0, 0.0, width, height, 1.0]])
        misplaced = misplacement(self.analysis.det_model, bgr)
        return EncodedFace(self._embed(crop), _rgb_from_bgr(crop), whole, misplacement=misplaced)

    def _embed(self, crop: np.ndarray) -> Tensor:
        """Compute the recognizer's embedding (width,) of an aligned face, uint8 (112, 112, 3) BGR."""
        return torch.from_numpy(np.asarray(self.analysis.models["recognition"].get_feat(crop), dtype=np.float32)[0])


def _describe_pack(folder: Path, error: Exception) -> str:
    """Say what is wrong with a model pack that InsightFace failed to load."""
    import onnxruntime

    files = sorted(folder.glob("*.onnx"))
    for path in files:
        try:
            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception:
            return f"{path} is no ONNX model: {describe_content(path)}."
    names = ", ".join(path.name for path in files)
    if isinstance(error, AssertionError):
        return f"The face model pack {folder} has no detector, only {names}: get the whole pack."
    return f"The face model pack {folder} ({names}) can't be loaded: {' '.join(str(error).split())}"


def _describe_faces(boxes: np.ndarray, image: str, choose: Choice, index: int) -> str:
    """Say which faces (faces, 5) an image has, in the order in which they are counted, where the wanted one is not."""
    if len(boxes) == 0:
        return (
            f"Found no face in {image}, however it is turned: use an image in which the face is well visible and not "
            "cut off."
        )
    faces = ", ".join(
        f"{number} at x {(left + right) / 2:.0f}, y {(top + bottom) / 2:.0f} ({right - left:.0f} pixels wide)"
        for number, (left, top, right, bottom, _) in enumerate(boxes.tolist())
    )
    return (
        f"Found {len(boxes)} face{'s' * (len(boxes) > 1)}, no number {index} in {image}. In the order {choose!r} there "
        f"are {faces}: choose one of these numbers, or leave the image out."
    )


def _describe_white(image: np.ndarray) -> str:
    white = float((image == 255).all(-1).mean())
    if white < MOSTLY_WHITE:
        return ""
    return (
        f" Of its pixels {white:.0%} are white, which in ComfyUI is what Load Image makes of gray images of 16 bits: "
        "save it with 8 bits, or load it with Load Reference Images from Folder."
    )


def _rgb_from_bgr(crop: np.ndarray) -> Tensor:
    """Convert uint8 BGR to float32 RGB in [0, 1]."""
    return torch.from_numpy(crop[..., ::-1].copy()).float() / 255.0
