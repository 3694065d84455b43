"""Face Sim: do generated faces show the person? And copy-paste: or do they repeat the given image?

Face Sim is the mean raw cosine over pairs of generated and real faces, once with the references that the method was
given and once with other images of the person. A method that copies its reference (pose, light, expression) wins the
first and not the second, which is the fairer one (MultiID-Bench, arXiv 2510.14975). An image without a face is left out
of one column and 0 in the other: a method must not gain by hiding faces.

Copy-paste is MultiID-Bench's: with θ the angle between faces, (θ(generated, other) − θ(generated, reference)) /
θ(other, reference), means over pairs. 1: the generated face is the reference; 0: no closer to it than to the others;
negative: closer to the others.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from difflora_core.encoders.face_encoder import NoFaceError

from ..cosines import OTHERS, REFERENCES, mean_cosines
from ..metric import Better, Description, PersonSample, Scores
from .face_search import FaceSearch, FoundFaces

NAME = "Face Sim"
COPY_PASTE, FOUND, PADDED = "copy-paste", "faces found", "faces found after padding"
ZEROED = "0 without a face"
SAME_ANGLE = 1e-3
"""Radians between references and other images below which copy-paste is not defined: they are the same images."""


class FaceSimilarity:
    """Face Sim with references and other images, copy-paste, and shares of found faces."""

    def __init__(self, search: FaceSearch) -> None:
        """Use a recognizer."""
        self.search = search

    @property
    def columns(self) -> Mapping[str, Better]:
        """Face Sim four times, copy-paste, shares of images in which a face was found, at all and after padding."""
        columns: dict[str, Better] = {}
        for kind in (REFERENCES, OTHERS):
            columns |= {f"{NAME}, {kind}": "higher", f"{NAME}, {kind}, {ZEROED}": "higher"}
        return columns | {COPY_PASTE: "lower", FOUND: "higher", PADDED: "neither"}

    @property
    def description(self) -> Description:
        """Say what it is."""
        return self.search.description(
            "recognizer's embedding; mean raw cosine over pairs; copy-paste by mean angles",
            "two columns and copy-paste: MultiID-Bench (arXiv 2510.14975)",
        )

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images.

        Raises:
            NoFaceError: No reference shows a face.
            ValueError: An image can't be used; it is named.
        """
        faces, references = self.search(sample.images), self.search(sample.references, "reference image").known
        if len(references) == 0:
            raise NoFaceError(f"found no face in any of the {len(sample.references)} reference images")
        # Other images without any face are like none: NaN
        others = self.search(sample.others, "other image").known if len(sample.others) else references[:0]
        scores = {
            **_similarity_columns(REFERENCES, faces, references),
            **_similarity_columns(OTHERS, faces, others),
            COPY_PASTE: _copy_paste(faces, references, others),
            FOUND: faces.found.double().numpy(),
            PADDED: faces.padded.double().numpy(),
        }
        return {name: scores[name] for name in self.columns}


def _similarity_columns(kind: str, faces: FoundFaces, real: Tensor) -> dict[str, np.ndarray]:
    similarity = np.full(len(faces.found), np.nan)
    if len(real) and faces.found.any():
        similarity[faces.found.numpy()] = mean_cosines(faces.known, real)
    zeroed = np.where(faces.found.numpy() | (len(real) == 0), similarity, 0.0)
    return {f"{NAME}, {kind}": similarity, f"{NAME}, {kind}, {ZEROED}": zeroed}


def _copy_paste(faces: FoundFaces, references: Tensor, others: Tensor) -> np.ndarray:
    scores = np.full(len(faces.found), np.nan)
    if len(others) and faces.found.any():
        apart = float(_angles(others, references).mean())
        if apart > SAME_ANGLE:
            nearer = _angles(faces.known, others).mean(1) - _angles(faces.known, references).mean(1)
            scores[faces.found.numpy()] = (nearer / apart).numpy()
    return scores


def _angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles in radians between unit-length (n, width) and (m, width): float64 (n, m)."""
    return torch.arccos((first.double() @ second.double().T).clamp(-1.0, 1.0))
