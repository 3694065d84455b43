"""Sizes of images that other programs made: metrics take any, so that a wrong one would pass over in silence."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..methods.given_images import GivenImages
from ..methods.method import ImageRequest
from ..people_folders import EvaluatedPerson
from .method_plans import MethodPlan


def describe_sizes(
    plans: Sequence[MethodPlan], people: Sequence[EvaluatedPerson], requests: Sequence[ImageRequest], size: int
) -> Iterator[str]:
    """Say in a line for each method how many of its images, given or made by a server, have another size.

    Args:
        plans: Of all methods.
        people: Whose images; those whom a method could not do are left out.
        requests: All that were wanted.
        size: Pixels of a side of the other methods' images.

    Raises:
        ValueError: An image is damaged.
    """
    for plan in plans:
        if not (isinstance(plan.method, GivenImages) or plan.is_on_server):
            continue
        files = [file for who in people if plan.failure(who.name) is None for file in plan.files(who, requests)]
        sizes = {file: _size(file, plan.name) for file in files}
        others = [file for file in files if sizes[file] != (size, size)]
        if others:
            width, height = sizes[others[0]]
            yield (
                f"{plan.name}: {len(others)} of {len(files)} images are not of {size} × {size} pixels, first "
                f"{others[0].parent.name}/{others[0].name} with {width} × {height}; metrics scale them, and some cut "
                "them to a square"
            )


def _size(file: Path, method: str) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except OSError as error:
        raise ValueError(f"method {method}: {file} is no image, or is damaged: {error}") from error
