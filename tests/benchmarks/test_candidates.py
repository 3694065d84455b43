"""What `python -m benchmarks.images.candidates` says of chosen candidates."""

import numpy as np
import pytest

from benchmarks.images.candidates import chosen_likeness


def test_candidates_are_chosen_on_each_half_of_the_scenes_and_measured_on_the_other() -> None:
    likeness = np.array([[[1.0, 1.0, 0.0, 0.0]], [[0.5, 0.5, 0.75, 0.75]]])  # (candidates, people, scenes)
    assert chosen_likeness(likeness) == (0.0 + 0.5) / 2


def test_the_scenes_are_those_of_the_mean_likeness() -> None:
    scenes = np.array([0.2, 0.4, 0.9])  # an odd number, and the candidates are all the same
    likeness = np.broadcast_to(scenes, (3, 5, 3))
    assert chosen_likeness(likeness) == pytest.approx(likeness.mean())
