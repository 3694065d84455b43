"""The frozen encoders: reference pictures to face embeddings (InsightFace) and image embeddings (CLIP vision).

Nothing here is trained and nothing is downloaded: a model that isn't there is an error that says where it belongs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

RETRY_SIZES = (640, 512, 384, 320, 256, 192)  # a tight crop fills a large detector input and is missed there
CROP = 112  # pixels of an aligned face, ArcFace's size
BATCH = 32  # pictures that the image encoder sees at a time: a thousand references need no more memory than these
MIN_FACE_SIDE = 32  # pixels of an aligned face below which nothing of a person is left; our choice

Choice = Literal["largest", "left to right", "highest score"]


class NoFaceError(ValueError):
    """A reference picture in which the asked-for face was not found."""


@dataclass(frozen=True)
class EncodedFace:
    """One reference picture's face.

    embedding: float32 (width,), raw as the recognizer gives it. crop: float32 (112, 112, 3) RGB in [0, 1], aligned by
    the landmarks. boxes: float32 (faces, 5), every face that was found as x1, y1, x2, y2 in pixels of the picture and
    the detector's score. chosen: the row of the encoded one. landmarks: float32 (5, 2), the chosen face's left eye,
    right eye, nose tip, left and right corner of the mouth in pixels of the picture, "left" being left in the picture;
    None for a picture that was an aligned face already.
    """

    embedding: Tensor
    crop: Tensor
    boxes: Tensor
    chosen: int = 0
    landmarks: Tensor | None = None


def picture_batch(images: Tensor) -> Tensor:
    """A checked batch of pictures: float (pictures, height, width, 3) RGB in [0, 1].

    images: float (pictures, height, width, channels), channels 1 (grey, repeated), 3, or 4 (alpha, left out).
    Raises ValueError for what is no batch of pictures, is empty, or holds NaN or infinite numbers.
    """
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"Pictures are (pictures, height, width, 3) numbers with at least one picture, found {tuple(images.shape)}."
        )
    for number, image in enumerate(images, start=1):
        if not image.isfinite().all():
            raise ValueError(
                f"picture {number} of {len(images)} holds NaN or infinite numbers: the node before made a broken "
                "picture."
            )
    return images.expand(*images.shape[:3], 3) if images.shape[-1] == 1 else images[..., :3]


def rgb_array(image: Any, number: int) -> np.ndarray:
    """A PIL picture or an array as uint8 (height, width, 3). number: of the picture, for the error.

    Raises ValueError for an array of another form, or a path.
    """
    if isinstance(image, str | Path):
        raise ValueError(f"reference picture {number} is the path {str(image)!r}: open it first, with PIL.Image.open.")
    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            f"reference picture {number} is {array.dtype} {array.shape}, expected a PIL picture or a uint8 array "
            "(height, width, 3)."
        )
    return array


def providers_for(device: torch.device) -> list[str]:
    """Onnxruntime's providers for a torch device: CUDA's where that is installed, and always the CPU's."""
    import onnxruntime

    cuda = "CUDAExecutionProvider"
    faster = [cuda] if device.type == "cuda" and cuda in onnxruntime.get_available_providers() else []
    return [*faster, "CPUExecutionProvider"]


class FaceEncoder:
    """InsightFace's detector and recognizer on reference pictures."""

    def __init__(self, analysis: Any) -> None:
        """analysis: a prepared `insightface.app.FaceAnalysis` with detection and recognition."""
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
        self.analysis = analysis

    @property
    def name(self) -> str:
        """Name of the model pack: embeddings of two packs are not interchangeable."""
        return Path(self.analysis.model_dir).name

    @classmethod
    def open(cls, name: str, root: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Self:
        """Load the pack in root/models/name. Raises FileNotFoundError: InsightFace itself would download one."""
        folder = Path(root) / "models" / name
        if not any(folder.glob("*.onnx")):
            nested = next(folder.glob("*/*.onnx"), None)
            hint = f" There are some in {nested.parent}: move them up one folder." if nested else ""
            raise FileNotFoundError(f"No face models (*.onnx) in {folder}.{hint}")
        import onnxruntime
        from insightface.app import FaceAnalysis

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # the default, one per core, crawls beside other work
        analysis = FaceAnalysis(
            name=str(folder),
            providers=list(providers),
            sess_options=options,
            allowed_modules=["detection", "recognition"],
        )
        analysis.prepare(ctx_id=0 if "CUDAExecutionProvider" in providers else -1)
        return cls(analysis)

    def pictures(
        self, images: Tensor, choose: Choice = "largest", index: int = 0, aligned: bool = False
    ) -> Iterator[EncodedFace]:
        """The chosen face of each picture, one after another, so that a caller can show progress.

        images: float (pictures, height, width, channels) in [0, 1], see `picture_batch`. index: 0 is the largest, the
        leftmost or the surest face. aligned: each picture is already an aligned face, as the recognizer sees it, and
        nothing is detected.
        Raises NoFaceError naming the picture, ValueError for pictures that are none.
        """
        for number, image in enumerate(picture_batch(images), start=1):
            name = f"picture {number} of {len(images)}"
            pixels = image.mul(255).round().clamp(0, 255).byte().cpu().numpy()
            yield self._encode_aligned(pixels, name) if aligned else self._encode(pixels, name, choose, index)

    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Embeddings (pictures, width) of the largest face of each uint8 (height, width, 3) RGB picture.

        Raises NoFaceError naming the picture without a face.
        """
        faces = [self.largest(image, f"picture {i} of {len(images)}") for i, image in enumerate(images, 1)]
        return torch.stack([face.embedding for face in faces])

    def largest(self, image: np.ndarray, name: str = "the picture") -> EncodedFace:
        """The largest face of one uint8 (height, width, 3) RGB picture. Raises NoFaceError, which calls it `name`."""
        return self._encode(image, name, "largest", 0)

    def _encode(self, image: np.ndarray, name: str, choose: Choice, index: int) -> EncodedFace:
        from insightface.utils import face_align

        bgr = np.ascontiguousarray(image[..., ::-1])
        boxes, landmarks = self._detect(bgr)
        if len(boxes) <= index:
            found = "no face" if len(boxes) == 0 else f"{len(boxes)} face{'s' * (len(boxes) > 1)}, no number {index}"
            raise NoFaceError(
                f"Found {found} in {name} ({image.shape[1]} × {image.shape[0]} pixels): use a picture in which "
                "the face is well visible and not cut off."
            )
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        keys = {"largest": -area, "left to right": boxes[:, 0], "highest score": -boxes[:, 4]}
        row = int(np.argsort(keys[choose], kind="stable")[index])
        crop = face_align.norm_crop(bgr, landmark=landmarks[row], image_size=CROP)
        return EncodedFace(
            self._embed(crop),
            _as_picture(crop),
            torch.from_numpy(boxes.astype(np.float32)),
            row,
            torch.from_numpy(landmarks[row].astype(np.float32)),
        )

    def _encode_aligned(self, image: np.ndarray, name: str) -> EncodedFace:
        import cv2

        if min(image.shape[:2]) < MIN_FACE_SIDE:
            raise NoFaceError(
                f"{name} is {image.shape[1]} × {image.shape[0]} pixels: an aligned face needs at least {MIN_FACE_SIDE} a "
                f"side, better {CROP}."
            )
        crop = cv2.resize(np.ascontiguousarray(image[..., ::-1]), (CROP, CROP), interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
        whole = torch.tensor([[0.0, 0.0, width, height, 1.0]])
        return EncodedFace(self._embed(crop), _as_picture(crop), whole)

    def _embed(self, crop: np.ndarray) -> Tensor:
        """The recognizer's embedding (width,) of an aligned face, uint8 (112, 112, 3) BGR."""
        return torch.from_numpy(np.asarray(self.analysis.models["recognition"].get_feat(crop), dtype=np.float32)[0])

    def _detect(self, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes with scores (faces, 5) and landmarks (faces, 5, 2), at the pack's own sizes or at smaller ones."""
        boxes, landmarks = self.analysis.det_model.detect(bgr, metric="default")
        for size in RETRY_SIZES:
            if len(boxes):
                break
            boxes, landmarks = self.analysis.det_model.detect(bgr, input_size=(size, size), metric="default")
        return boxes, landmarks


def _as_picture(crop: np.ndarray) -> Tensor:
    """uint8 BGR → float32 RGB in [0, 1]."""
    return torch.from_numpy(crop[..., ::-1].copy()).float() / 255.0


class ImageEncoder:
    """A CLIP vision model in transformers' format."""

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        """model: transformers' CLIP vision model with projection, on its device. mean, std: of its pictures."""
        self.model, self.size = model.eval(), int(model.config.image_size)
        self.mean, self.std = (torch.tensor(list(v)).view(3, 1, 1) for v in (mean, std))

    @classmethod
    def open(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load config.json, model.safetensors and preprocessor_config.json of a folder; nothing is downloaded."""
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"No CLIP vision model in {folder}: expected config.json, model.safetensors and "
                "preprocessor_config.json."
            )
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return cls(model.to(device), processor.image_mean, processor.image_std)

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Projected embeddings `image_embeds` (pictures, width) of uint8 (height, width, 3) RGB pictures."""
        chunks = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        pixels = (torch.stack([self.preprocess(image) for image in chunk]) for chunk in chunks)
        return torch.cat([self.model(pixel_values=one.to(self.model.device)).image_embeds for one in pixels])

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Shorter side to the model's size (bicubic, antialiased), center crop, normalize: (3, size, size).

        The order of roundings is that of ComfyUI's CLIP vision, so that both give the same embedding of a picture.
        """
        pixels = torch.from_numpy(np.array(image[..., :3])).permute(2, 0, 1)[None].float() / 255.0
        height, width = pixels.shape[-2:]
        if (height, width) != (self.size, self.size):
            scale = self.size / min(height, width)
            target = (round(scale * height), round(scale * width))
            pixels = F.interpolate(pixels, size=target, mode="bicubic", antialias=True)
            top, left = (target[0] - self.size) // 2, (target[1] - self.size) // 2
            pixels = pixels[..., top : top + self.size, left : left + self.size]
        pixels = (255.0 * pixels).clamp(0, 255).round() / 255.0
        return (pixels[0] - self.mean) / self.std
