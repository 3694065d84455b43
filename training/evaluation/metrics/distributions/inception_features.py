"""Features of images that FID and KID are defined on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from difflora_core.images import ImageSource

from ..content_cache import ContentCache
from ..metric import Description
from ..model_files import read_state_dict
from ..pixels import require_finite
from .inception import WIDTH, Inception

SIDE = 299
"""Of Inception's input in pixels."""
FILE = "weights-inception-2015-12-05-6726825d.pth"


class InceptionFeatures:
    """Inception's pooled features, with the input of the original TensorFlow graph, as torch-fidelity has it."""

    def __init__(self, network: Inception, origin: str) -> None:
        """Use a network.

        Args:
            network: The network, on its device.
            origin: Where it was read from, for the report.
        """
        self.network, self.origin = network, origin
        self._rows = ContentCache(self._features)

    @classmethod
    def open(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load torch-fidelity's weights, or a safetensors file with the same names.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged or another network; no code of a pickle is run.
        """
        how = f"torch-fidelity publishes it as {FILE} among its releases"
        state = read_state_dict(Path(path), "Inception for FID and KID", how)
        return cls(Inception.from_official(state).to(device), str(path))

    @property
    def description(self) -> Description:
        """Say what they are."""
        return Description(
            model=f"Inception v3 of 2015-12-05, {self.origin}",
            layer=f"pooled features, {WIDTH} wide",
            preprocessing=f"whole image to {SIDE} px (bilinear as TensorFlow 1, not antialiased), (x − 128) / 128",
            source="torch-fidelity",
        )

    def __call__(self, images: Sequence[ImageSource], what: str = "image") -> Tensor:
        """Compute features (images, 2048), float32.

        Raises:
            ValueError: See `read_images`.
        """
        return torch.stack(self._rows(images, what))

    @torch.no_grad()
    def _features(self, images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        device = next(self.network.parameters()).device
        pixels = torch.cat([tensorflow_resize(image, SIDE) for image in images]).to(device)
        return list(require_finite(self.network((pixels - 128.0) / 128.0), "Inception").cpu())


def tensorflow_resize(image: np.ndarray, side: int) -> Tensor:
    """Resize as TensorFlow 1 did by default: bilinear, the first pixels' corners aligned, not antialiased.

    Args:
        image: uint8 (height, width, channels).
        side: Pixels of a side of the result.

    Returns:
        float32 (1, channels, side, side) in 0 … 255.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    return _interpolate(_interpolate(pixels, 3, side), 2, side)


def _interpolate(pixels: Tensor, axis: int, side: int) -> Tensor:
    length = pixels.shape[axis]
    position = torch.arange(side, dtype=torch.float32) * torch.tensor(length / side, dtype=torch.float32)
    low = position.long()
    share = (position - low).view(-1, *[1] * (3 - axis))
    first = pixels.index_select(axis, low)
    return first + (pixels.index_select(axis, (low + 1).clamp(max=length - 1)) - first) * share
