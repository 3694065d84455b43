"""Faces of images and their embeddings, by a recognizer that is neutral: no method was trained on it or sees it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError, providers_for
from difflora_core.images import ImageSource

from ..content_cache import ContentCache
from ..metric import Description

PADDED = 1.5
"""Side of the padded image over the image's, as in MultiID-Bench (arXiv 2510.14975): a face that fills an image, or is
cut off by its border, is often found only so."""


@dataclass(frozen=True)
class FoundFaces:
    """The largest face of each image."""

    embeddings: Tensor
    """Unit-length float32 (images, width); zeros where no face was found."""
    found: Tensor
    """bool (images,)."""
    padded: Tensor
    """bool (images,): found only after padding."""

    @property
    def known(self) -> Tensor:
        """Embeddings of the faces that were found: (faces, width)."""
        return self.embeddings[self.found]


class FaceSearch:
    """Finds and embeds faces; several metrics share one, which looks at each image once."""

    def __init__(self, encoder: FaceEncoder) -> None:
        """Use an InsightFace pack."""
        self.encoder = encoder
        self._faces = ContentCache(self._find)

    @classmethod
    def open(
        cls,
        pack: str,
        root: str | Path,
        conditioning: Collection[str] = (),
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a pack from root/models/pack, for instance AuraFace-v1, whose license permits any use.

        Args:
            pack: Name of the pack.
            root: InsightFace's folder.
            conditioning: Packs whose embeddings a measured method sees; those in `root` are compared by content.
            device: Where it computes; on a GPU only if onnxruntime was installed with CUDA.

        Raises:
            FileNotFoundError: The pack is not there.
            ValueError: It is damaged, or has the recognizer of one of `conditioning`.
        """
        encoder = FaceEncoder.open(pack, root, providers_for(torch.device(device)))
        recognizer = Path(encoder.analysis.models["recognition"].model_file)
        for other in conditioning:
            files = (Path(root) / "models" / other).glob("*.onnx")
            # The same recognizer under another name; packs may share a detector
            if other == pack or any(cmp(recognizer, file, shallow=False) for file in files):
                raise ValueError(
                    f"{pack} has the recognizer of {other}, which a method is conditioned on; measured with it, the "
                    "method would be its own judge: choose another pack, for instance AuraFace-v1"
                )
        return cls(encoder)

    def description(self, layer: str, source: str) -> Description:
        """Describe a metric of these faces."""
        return Description(
            model=f"InsightFace pack {self.encoder.name}",
            layer=layer,
            preprocessing="largest face, aligned to 112 px; where none is found, once more with a black border that "
            f"makes the image {PADDED} times as large",
            source=source,
        )

    def __call__(self, images: Sequence[ImageSource], what: str = "image") -> FoundFaces:
        """Find the largest face of each image.

        Raises:
            ValueError: See `read_images`.
        """
        faces = self._faces(images, what)
        width = next((len(embedding) for embedding, _ in faces if embedding is not None), 1)
        rows = [torch.zeros(width) if embedding is None else embedding for embedding, _ in faces]
        found = torch.tensor([embedding is not None for embedding, _ in faces])
        return FoundFaces(torch.stack(rows), found, torch.tensor([padded for _, padded in faces]))

    def _find(self, images: Sequence[np.ndarray]) -> list[tuple[Tensor | None, bool]]:
        return [self._find_one(image) for image in images]

    def _find_one(self, image: np.ndarray) -> tuple[Tensor | None, bool]:
        """Return the embedding, if there is a face, and whether padding was needed for it."""
        border = tuple((round((PADDED - 1) / 2 * side),) * 2 for side in image.shape[:2])
        for padded in (False, True):
            shown = np.pad(image, (*border, (0, 0))) if padded else image
            try:
                return F.normalize(self.encoder.find(shown).embedding, dim=0), padded
            except NoFaceError:
                continue
        return None, False
