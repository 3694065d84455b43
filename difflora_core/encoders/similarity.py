"""Face similarity: raw cosines between a person's references and images that should show that person."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..denoiser.mif import mean_embedding
from ..images import image_list, rgb_array
from .face_encoder import EncodedFace, FaceEncoder, NoFaceError

SAME_PERSON = 0.3
"""Mean cosine of an image's face to the other faces of a person, below which it looks like somebody else. Our choice:
in the miniature the validation people's own images have 0.82 and more, and 91 % of the images of others among them are
found; common recognizers have about 0 between people, and 0.4 to 0.8 within one."""


@dataclass(frozen=True)
class FaceSimilarities:
    """How similar the faces in some images are to one person's."""

    cosines: Tensor
    """float32 (images,); 0 where no face was found."""
    faces: Sequence[EncodedFace | None]
    """Each image's face, or None where there was none."""
    left_out: tuple[int, ...] = ()
    """Numbers of the references without a face, from 1 on: they are not compared with."""

    @property
    def mean(self) -> float:
        """Mean cosine over all images."""
        return float(self.cosines.mean())


def face_similarities(
    encoder: FaceEncoder,
    references: Sequence[Tensor] | Tensor,
    images: Sequence[Tensor] | Tensor,
    on_image: Callable[[int, int], None] | None = None,
) -> FaceSimilarities:
    """Compare images with the person in the references; the largest face of each image counts.

    The references' mean direction is compared with each image by raw cosine. An image without a face counts as 0: it
    doesn't show the person. A reference without a face is left out.

    Args:
        encoder: The face encoder.
        references: Floats (images, height, width, 3) RGB in [0, 1], or several such batches of any sizes.
        images: As `references`.
        on_image: Called with (images done, images in all) after each, references first; it may raise to interrupt.

    Raises:
        NoFaceError: No reference shows a face.
        ValueError: See `image_list`.
    """
    known_images, compared = image_list(references), image_list(images)

    def progress(done: int) -> None:
        if on_image is not None:
            on_image(done, len(known_images) + len(compared))

    found = find_faces(encoder, known_images, progress)
    known = [face.embedding for face in found if face is not None]
    if not known:
        raise NoFaceError(f"Found no face in any of the {len(found)} reference images.")
    person = mean_embedding(torch.stack(known))[0]
    faces = find_faces(encoder, compared, lambda done: progress(len(found) + done))
    cosines = [0.0 if face is None else float(F.cosine_similarity(face.embedding, person, dim=0)) for face in faces]
    left_out = tuple(number for number, face in enumerate(found, start=1) if face is None)
    return FaceSimilarities(torch.tensor(cosines), faces, left_out)


def rank_by_likeness(cosines: Sequence[Tensor], faces: Sequence[Tensor]) -> list[tuple[int, float]]:
    """Order candidates by the mean cosine of their images.

    An image without a face ranks below every face: it counts as 0, or as the lowest cosine where that is negative. Of
    equal candidates, the one with more faces is the better one.

    Args:
        cosines: Of each candidate (images,), 0 where there is no face.
        faces: Of each candidate bool (images,), whether there is one.

    Returns:
        Row of each candidate and the mean that it is ranked by, the best first.

    Raises:
        ValueError: No image shows a face.
    """
    if not torch.cat(list(faces)).any():
        raise ValueError(
            "no image of any candidate shows a face, so that they cannot be ranked: look at the images, and choose a "
            "prompt that shows the face"
        )
    lowest = torch.cat(list(cosines)).clamp(max=0.0).min()
    keys = [
        (float(own.where(shown, lowest).mean()), float(shown.float().mean()))
        for own, shown in zip(cosines, faces, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)
    return [(row, keys[row][0]) for row in order]


def find_faces(
    encoder: FaceEncoder, images: Sequence[Tensor], on_image: Callable[[int], None]
) -> list[EncodedFace | None]:
    """Find the largest face of each image (height, width, 3), None where there is none.

    Args:
        encoder: The face encoder.
        images: Floats in [0, 1].
        on_image: Called with how many are done after each.
    """
    found: list[EncodedFace | None] = []
    for image in images:
        try:
            found.append(encoder.find(rgb_array(image, "the image")))
        except NoFaceError:
            found.append(None)
        on_image(len(found))
    return found


def somebody_else(embeddings: Tensor) -> list[tuple[int, float]]:
    """Find the faces that look like somebody else than most.

    The face that is similar to the most others stands for the person, with those others.

    Args:
        embeddings: Of one person's images, (images, width).

    Returns:
        Row of each, and the mean cosine to the person's other faces; all rows if no two are similar.
    """
    if len(embeddings) < 2:
        return []
    unit = F.normalize(embeddings.float(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(0.0)
    similar = cosines >= SAME_PERSON
    # Of equally many, those who are more similar
    person = int((similar.sum(1) + (cosines * similar).sum(1) / len(cosines)).argmax())
    own = similar[person].clone()
    own[person] = True
    if own.sum() == 1:
        return [(row, float(mean)) for row, mean in enumerate(cosines.sum(1) / (len(cosines) - 1))]
    means = (cosines * own).sum(1) / (own.sum() - own.int())
    return [(row, float(mean)) for row, mean in enumerate(means) if mean < SAME_PERSON]
