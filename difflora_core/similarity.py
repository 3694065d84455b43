"""Face similarity: raw cosines between a person's references and pictures that should show that person."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .denoiser.mif import mean_embedding
from .encoders import EncodedFace, FaceEncoder, NoFaceError, picture_batch


@dataclass(frozen=True)
class Likeness:
    """Of some pictures to one person. cosines: float32 (pictures,); 0 where no face was found. faces: the faces, or
    None where there was none.
    """

    cosines: Tensor
    faces: Sequence[EncodedFace | None]

    @property
    def mean(self) -> float:
        return float(self.cosines.mean())


def likeness(encoder: FaceEncoder, references: Tensor, pictures: Tensor) -> Likeness:
    """How much pictures look like the person of the references; the largest face of each counts.

    references, pictures: float (n, height, width, 3) RGB in [0, 1]. The references' mean direction is compared with
    each picture, by raw cosine. A picture without a face counts as 0: it doesn't show the person.
    Raises NoFaceError if no reference shows a face.
    """
    known = [face.embedding for face in find_faces(encoder, references) if face is not None]
    if not known:
        raise NoFaceError(f"Found no face in any of the {len(references)} reference pictures.")
    person = mean_embedding(torch.stack(known))[0]
    faces = find_faces(encoder, pictures)
    cosines = [0.0 if face is None else float(F.cosine_similarity(face.embedding, person, dim=0)) for face in faces]
    return Likeness(torch.tensor(cosines), faces)


def find_faces(encoder: FaceEncoder, pictures: Tensor) -> list[EncodedFace | None]:
    """The largest face of each picture, None where there is none. Raises ValueError as `picture_batch` does."""
    found: list[EncodedFace | None] = []
    for picture in picture_batch(pictures):
        try:
            found += encoder.pictures(picture[None])
        except NoFaceError:
            found.append(None)
    return found
