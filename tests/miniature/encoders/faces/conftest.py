"""Drawn faces that several tests look at."""

import numpy as np
import pytest

from miniature.world.drawing import Drawing, draw
from miniature.world.people import person, split_people
from miniature.world.scenes import random_scene


@pytest.fixture(scope="session")
def portraits() -> list[list[Drawing]]:
    """Two drawings of each of eight validation people."""
    people = split_people("validation")[:8]
    return [[draw(person(i), random_scene(np.random.default_rng([8, i, k]))) for k in range(2)] for i in people]
