"""Mean cosines between a method's images and a person's real ones.

The mean over all pairs, as in DreamBooth (Ruiz et al., arXiv 2208.12242, section 4.1): it is expected to be the same
for one real image and for many. The cosine with the mean of the real embeddings is not: it grows with their number, so
that given references (few) and other images (more) could not be compared.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from difflora_core.images import ImageSource

from .metric import Better, PersonSample, Scores

REFERENCES, OTHERS = "references", "other images"
"""How columns name what is compared with: images that the method was given, and those that it was not."""


def mean_cosines(generated: Tensor, real: Tensor) -> np.ndarray:
    """Return the mean cosine of each generated image with the real ones.

    Args:
        generated: Unit-length (images, width).
        real: Unit-length (real images, width).

    Returns:
        float64 (images,).
    """
    return (generated.double() @ real.double().mean(0)).cpu().numpy()


def likeness_columns(name: str) -> dict[str, Better]:
    """Name the two columns of `likeness_scores`."""
    return {f"{name}, {REFERENCES}": "higher", f"{name}, {OTHERS}": "higher"}


def likeness_scores(
    name: str, embed: Callable[[Sequence[ImageSource], str], Tensor], generated: Tensor, sample: PersonSample
) -> Scores:
    """Compare generated images with the references and with the person's other images.

    Args:
        name: Of the columns.
        embed: Makes unit-length embeddings (images, width) of images, which errors call by its second argument.
        generated: Those of the sample's images.
        sample: Without other images their column is NaN.
    """
    references = mean_cosines(generated, embed(sample.references, "reference image"))
    others = (
        mean_cosines(generated, embed(sample.others, "other image"))
        if len(sample.others)
        else np.full(len(sample.images), np.nan)
    )
    return dict(zip(likeness_columns(name), (references, others), strict=True))
