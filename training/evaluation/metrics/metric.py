"""What a metric is.

A runner makes a `PersonSample` of each person and method, and hands it to every `PersonMetric`; a metric of sets gets
all images of a method at once. A column's values of a person's images become the person's value, the people's values
the method's mean and interval (`training.evaluation.statistics`). A metric of another package, such as the miniature's
attribute judge, needs no more than these members.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from difflora_core.images import ImageSource

Better = Literal["higher", "lower", "neither"]
"""Which values of a column are better; "neither" is shown without a winner."""
Scores = Mapping[str, np.ndarray]
"""Values by column, float64: (images,), or (1,) where a column is of the person. NaN was not measurable."""


@dataclass(frozen=True)
class Description:
    """What the report says of a metric, so that its values can be computed again."""

    model: str
    """Which network, and where it was read from."""
    layer: str
    """Which of its outputs, and what is computed of it."""
    preprocessing: str
    """What is done with images before."""
    source: str
    """The paper, and whose choices are followed."""


@dataclass(frozen=True)
class PersonSample:
    """What a method made for a person, and what it is compared with. Images in any form of `ImageSource`."""

    images: Sequence[ImageSource]
    """Generated images."""
    prompts: Sequence[str]
    """Of each, what it should show, without a method's own words (trigger, placeholder token)."""
    references: Sequence[ImageSource]
    """Images of the person that the method was given."""
    others: Sequence[ImageSource] = ()
    """Images of the person that the method was not given."""

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise ValueError("no images to measure: at least one is needed")
        if len(self.prompts) != len(self.images):
            raise ValueError(f"expected a prompt for each image, found {len(self.prompts)} for {len(self.images)}")
        if len(self.references) == 0:
            raise ValueError("no reference images: at least one is needed")


class PersonMetric(Protocol):
    """Measures the images of one person at a time."""

    @property
    def columns(self) -> Mapping[str, Better]:
        """Name its columns, in the order of the table."""

    @property
    def description(self) -> Description:
        """Say what it is."""

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images.

        Returns:
            Every one of `columns`.

        Raises:
            ValueError: An image can't be used; it is named.
        """
