"""Images as networks take them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difflora_core.images import MAX_ASPECT_RATIO, MIN_SIDE, ImageSource, rgb_array

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rgb_images(images: Sequence[ImageSource], what: str = "image") -> list[np.ndarray]:
    """Return all images at once; see `read_images`."""
    return list(read_images(images, what))


def read_images(images: Sequence[ImageSource], what: str = "image") -> Iterator[np.ndarray]:
    """Yield images as uint8 (height, width, 3) RGB, one after another: all of a method would fill the memory.

    Raises:
        ValueError: There is none, or one can't be used: a damaged file, NaN, a form that is no image, fewer pixels than
            anything can be seen in. It is named as `what` with its number.
    """
    if len(images) == 0:
        raise ValueError(f"no {what} to measure: at least one is needed")
    for number, image in enumerate(images, start=1):
        name = f"{what} {number} of {len(images)}"
        array = rgb_array(image, name)
        height, width = array.shape[:2]
        if min(height, width) < MIN_SIDE or max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise ValueError(
                f"{name} has {width} × {height} pixels, expected {MIN_SIDE} or more a side and a longer side of at "
                f"most {MAX_ASPECT_RATIO:g} times the shorter one"
            )
        yield array


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalize as torchvision does with PIL images, which most official code of metrics uses.

    PIL antialiases and rounds to 8 bits. Resizing tensors without antialiasing changes CLIP's input by 0.7 standard
    deviations on noise, and with it the metric.
    """

    resize: int
    """The shorter side's pixels, by bicubic interpolation."""
    crop: int
    """Side in pixels of the square in the middle."""
    mean: Sequence[float]
    """Of each channel in [0, 1], subtracted."""
    std: Sequence[float]
    """Of each channel in [0, 1], divided by."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ValueError(f"expected a crop of at most the resized side {self.resize}, found {self.crop}")

    def __str__(self) -> str:
        return (
            f"shorter side to {self.resize} px (PIL, bicubic, antialiased), center crop {self.crop} px, "
            f"mean {_rounded(self.mean)}, std {_rounded(self.std)}"
        )

    def __call__(self, images: Sequence[np.ndarray]) -> Tensor:
        """Prepare images, uint8 (height, width, 3) RGB each: float32 (images, 3, crop, crop)."""
        pixels = torch.stack([torch.from_numpy(self._crop(image)) for image in images])
        mean, std = (torch.tensor(list(values)).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels.permute(0, 3, 1, 2).float() / 255.0 - mean) / std

    def _crop(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        short = min(height, width)
        # torchvision rounds the longer side down
        size = (int(self.resize * width / short), int(self.resize * height / short))
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        left, top = (round((side - self.crop) / 2) for side in size)
        return np.array(resized.crop((left, top, left + self.crop, top + self.crop)))


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"


def require_finite(features: Tensor, what: str) -> Tensor:
    """Return features (images, …), or say that a network made none.

    Raises:
        ValueError: A row is not finite.
    """
    broken = ~features.isfinite().reshape(len(features), -1).all(1)
    if broken.any():
        raise ValueError(
            f"{what} made NaN or infinite values of {int(broken.sum())} of {len(features)} inputs, first of number "
            f"{int(broken.int().argmax()) + 1}: its weights are damaged, or its dtype overflows"
        )
    return features
