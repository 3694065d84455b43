"""Reference images of one person → the frozen encoders' embeddings."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .encoders.face_encoder import Choice, EncodedFace, FaceEncoder, NoFaceError
from .encoders.image_encoder import BATCH, ImageEncoder
from .encoders.similarity import SAME_PERSON, somebody_else
from .images import ImageSource, not_huge, printable, rgb_array

logger = logging.getLogger(__name__)

UnusablePolicy = Literal["raise", "skip"]
"""What to do about an image that can't be read or shows no such face."""
MAX_COUNTED = 20
"""Images whose faces an error counts; a folder may hold hundreds."""
MISPLACED = 0.24
"""`EncodedFace.misplacement` above which an image is no aligned face. Our choice on an image of each of the miniature's
100 validation people: aligned faces have 0.236 at most, 97 of them below 0.1; the close portraits that they are cut
from have 0.246 and more."""
TURNS = ("", "90° counterclockwise", "180°", "90° clockwise")
"""Names of 0 to 3 quarter turns."""


@dataclass(frozen=True)
class ReferenceImage:
    """The outcome of one reference image."""

    name: str
    """Its file, or its number among the images."""
    face: EncodedFace | None = None
    """Its face; None without a face encoder, or if the image can't be used."""
    error: ValueError | None = None
    """Why it can't be used: a NoFaceError, or another ValueError if it can't be read; None if it is used."""


@dataclass(frozen=True)
class ReferenceEmbeddings:
    """Embeddings of the usable reference images, in their order."""

    face: Tensor | None
    """(images, face_width) float32, or None without a face encoder."""
    image: Tensor | None
    """(images, image_width) float32, or None without an image encoder."""
    count: int
    """How many images were used."""
    remarks: tuple[str, ...] = ()
    """What a user should know of images that were used: a face that looks like somebody else, an image that was turned.
    They are logged as warnings, too."""


def encode_references(
    images: Sequence[ImageSource] | Tensor,
    face_encoder: FaceEncoder | None,
    image_encoder: ImageEncoder | None,
    *,
    unusable: UnusablePolicy = "raise",
    choose: Choice = "largest",
    index: int = 0,
    aligned: bool = False,
    on_image: Callable[[ReferenceImage], None] | None = None,
) -> ReferenceEmbeddings:
    """Encode one person's reference images, of which no more than `BATCH` are in memory at a time.

    Args:
        images: Files, PIL images, arrays or tensors of any sizes, see `images.ImageSource`; a tensor (images, height,
            width, channels), alone or in the list, is so many images. Those above `LONGEST_SIDE` are reduced.
        face_encoder: None leaves faces out.
        image_encoder: None leaves image embeddings out.
        unusable: Whether an image that can't be used is an error, or is left out and reported to `on_image`.
        choose: The order of several faces in an image, see `FaceEncoder.find`.
        index: Position of the face in that order.
        aligned: The images are aligned faces.
        on_image: Called after each image, used or not, with what came of it: for progress and reports.

    Returns:
        Embeddings of the images that were used.

    Raises:
        NoFaceError: With the policy `raise`, an image without the chosen face; it is named, and of several images it
            is told how many faces each has.
        ValueError: There is no image, none can be used, they are not in a list, there is no such policy, or (with the
            policy `raise`) one can't be read; it is named.
    """
    if unusable not in get_args(UnusablePolicy):
        raise ValueError(f"what to do about unusable images is 'raise' or 'skip', found {unusable!r}")
    images = _single_images(images)
    found: list[ReferenceImage] = []
    features: list[Tensor] = []
    first_error = None
    for start in range(0, len(images), BATCH):
        arrays: list[np.ndarray] = []
        for number, source in enumerate(images[start : start + BATCH], start=start + 1):
            outcome, upright = _read(source, number, len(images), face_encoder, (choose, index, aligned))
            if upright is not None:
                found.append(outcome)
                arrays.append(upright)
            elif outcome.error is not None and unusable == "raise":
                raise outcome.error if aligned else _with_counts(outcome.error, images, face_encoder)
            first_error = first_error or outcome.error
            if on_image is not None:
                on_image(outcome)
        if image_encoder is not None and arrays:
            features.append(image_encoder.encode(arrays))
    if not found:
        raise ValueError(
            f"none of the {len(images)} images can be used; the first: {first_error}"
            if first_error
            else "At least one reference image is needed, found none."
        )
    faces = [outcome.face.embedding for outcome in found if outcome.face is not None]
    face, image = torch.stack(faces) if faces else None, torch.cat(features) if features else None
    remarks = tuple(_remarks(found, face))
    for remark in remarks:
        logger.warning(remark)
    return ReferenceEmbeddings(face, image, len(found), remarks)


def _single_images(images: Sequence[ImageSource] | Tensor) -> Sequence[ImageSource] | Tensor:
    """Take batches within a list apart; one image that is not in a list would be taken for a list of its parts."""
    alone = isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 4) == 3
    if alone or not hasattr(images, "__getitem__"):  # a set, or what `Path.glob` returns, can't be taken in parts
        found = printable(str(images)) if isinstance(images, str | Path) else f"one {type(images).__name__}"
        raise ValueError(f"reference images are a list, found {found}: pass [image], or a list of a folder's files")
    if isinstance(images, Tensor) or not any(isinstance(source, Tensor) and source.ndim == 4 for source in images):
        return images
    batches = (source if isinstance(source, Tensor) and source.ndim == 4 else [source] for source in images)
    return [source for batch in batches for source in batch]


def _with_counts(
    error: ValueError, images: Sequence[ImageSource] | Tensor, face_encoder: FaceEncoder | None
) -> ValueError:
    """Add to a NoFaceError how many faces each image has: one number of a face applies to all of them."""
    if not isinstance(error, NoFaceError):
        return error
    if len(images) == 1:
        return NoFaceError(str(error))
    counts = []
    for number, source in enumerate(images[:MAX_COUNTED], start=1):
        outcome, _ = _read(source, number, len(images), face_encoder, ("largest", 0, False))
        count = 0 if outcome.face is None else len(outcome.face.boxes)
        readable = outcome.error is None or isinstance(outcome.error, NoFaceError)
        counts.append(f"{outcome.name}: {count if readable else 'unreadable'}")
    more = f", and {len(images) - MAX_COUNTED} more images" if len(images) > MAX_COUNTED else ""
    return NoFaceError(f"{error} Faces in each image: {', '.join(counts)}{more}.")


def _remarks(found: Sequence[ReferenceImage], faces: Tensor | None) -> Iterator[str]:
    for outcome in found:
        if outcome.face is not None and outcome.face.quarter_turns:
            turn = TURNS[outcome.face.quarter_turns]
            yield f"{outcome.name} was turned by {turn}, so that its face is upright"
        if outcome.face is not None and outcome.face.misplacement > MISPLACED:
            yield (
                f"{outcome.name} is no aligned face: aligning it would move its corners by up to "
                f"{outcome.face.misplacement:.0%} of its side; switch `aligned` off, so that its face is detected"
            )
    others = [] if faces is None else somebody_else(faces)
    if others and len(others) == len(found):
        lowest, highest = min(cosine for _, cosine in others), max(cosine for _, cosine in others)
        yield (
            f"no two of the {len(found)} images look like one person (mean cosines of their faces {lowest:.2f} to "
            f"{highest:.2f}, expected {SAME_PERSON} and more): the LoRA will show a mixture"
        )
        return
    for row, cosine in others:
        yield (
            f"{found[row].name} looks like somebody else: its face has a mean cosine of {cosine:.2f} to the others, "
            f"expected {SAME_PERSON} and more; leave it out if it shows another person"
        )


def _read(
    source: ImageSource,
    number: int,
    total: int,
    face_encoder: FaceEncoder | None,
    face: tuple[Choice, int, bool],
) -> tuple[ReferenceImage, np.ndarray | None]:
    """Read one image and find its face; return the image, too, turned as its face was, if it can be used."""
    name = printable(str(source)) if isinstance(source, str | Path) else f"image {number} of {total}"
    try:
        array = not_huge(rgb_array(source, name))
        found = None if face_encoder is None else face_encoder.find(array, name, *face)
    except ValueError as error:
        return ReferenceImage(name, error=error), None
    # The image encoder, too, knows upright people
    turns = 0 if found is None else found.quarter_turns
    return ReferenceImage(name, found), np.rot90(array, turns) if turns else array
