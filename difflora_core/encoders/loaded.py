"""A checkpoint's encoders, loaded when they are first needed and kept for the next person."""

import os
from pathlib import Path

import torch

from ..config import EncoderNames
from .face_encoder import FaceEncoder, providers_for
from .image_encoder import ImageEncoder


class LoadedEncoders:
    """The encoders that a checkpoint names, by place and device."""

    def __init__(self, names: EncoderNames) -> None:
        self.names = names
        self.models = Path()
        """The folder with a folder for each kind of model, as in ComfyUI: insightface, clip_vision."""
        self._face: dict[tuple[str, str], FaceEncoder] = {}
        self._image: dict[tuple[str, str], ImageEncoder] = {}

    def look_beside(self, checkpoint: str | Path) -> None:
        """Look for encoders beside the folder that holds a checkpoint."""
        self.models = Path(os.path.abspath(checkpoint)).parent.parent  # a bare file name has no folder to go up from

    def face(self, device: torch.device, root: str | Path | None = None) -> FaceEncoder:
        """Return the face encoder.

        Args:
            device: Where it runs.
            root: The folder that holds models/<pack>; insightface in `models` unless given.

        Raises:
            FileNotFoundError: It is not there.
        """
        place, providers = str(root or self.models / "insightface"), providers_for(device)
        if (key := (place, str(providers))) not in self._face:
            self._face[key] = FaceEncoder.open(self.names.face, place, providers)
        return self._face[key]

    def image(self, device: torch.device, folder: str | Path | None = None) -> ImageEncoder:
        """Return the image encoder.

        Args:
            device: Where it runs.
            folder: The CLIP vision folder; clip_vision/<name> in `models` unless given.

        Raises:
            FileNotFoundError: It is not there.
        """
        place = str(folder or self.models / "clip_vision" / self.names.image)
        if (key := (place, str(device))) not in self._image:
            self._image[key] = ImageEncoder.open(place, device)
        return self._image[key]
