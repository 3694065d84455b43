"""References as training images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difflora_core.images import read_image
from training.lora_dataset.stages.preprocess import crop_square


def square_pixels(paths: Sequence[Path], size: int) -> Tensor:
    """Return images' center squares (images, 3, size, size) in [0, 1].

    Raises:
        ValueError: One can't be read.
    """
    squares = np.stack([crop_square(read_image(path), size) for path in paths])
    return torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255.0
