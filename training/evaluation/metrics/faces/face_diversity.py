"""Face diversity: how much do a person's generated faces differ from one another?

Mean of 1 − cosine over all pairs of the person's generated faces, by the neutral recognizer. LoFA reports a face
diversity, too, but its formula is not known to us: never compare values with it. A method that repeats one face has
little, but so has one that keeps the person perfectly: read it beside Face Sim.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..metric import Better, Description, PersonSample, Scores
from .face_search import FaceSearch

COLUMN = "face diversity"


class FaceDiversity:
    """One value for a person; NaN with fewer than two faces."""

    def __init__(self, search: FaceSearch) -> None:
        """Use a recognizer: that of Face Sim, so that faces are searched for once."""
        self.search = search

    @property
    def columns(self) -> Mapping[str, Better]:
        """Face diversity."""
        return {COLUMN: "neither"}

    @property
    def description(self) -> Description:
        """Say what it is."""
        return self.search.description("recognizer's embedding; mean 1 − cosine over pairs of generated faces", "ours")

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images: (1,).

        Raises:
            ValueError: An image can't be used; it is named.
        """
        return {COLUMN: np.array([mean_distance(self.search(sample.images).known)])}


def mean_distance(embeddings: Tensor) -> float:
    """Return the mean of 1 − cosine over all pairs of unit-length embeddings (n, width); NaN for fewer than two."""
    count = len(embeddings)
    if count < 2:
        return float("nan")
    rows = embeddings.double()
    total = rows.sum(0)
    # Σ cosines over ordered pairs of different rows = |Σ rows|² − Σ |row|²
    return 1.0 - float(total @ total - (rows * rows).sum()) / (count * (count - 1))
