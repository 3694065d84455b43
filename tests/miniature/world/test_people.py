"""People: deterministic, and divided once."""

import numpy as np
import pytest

from miniature.world.image_blocks import BASE_PEOPLE, training_blocks
from miniature.world.people import SPLITS, TRAITS, person, split_people


def test_splits_never_overlap_and_training_stays_in_its_own():
    people = [set(r) for r in SPLITS.values()]
    assert sum(map(len, people)) == len(set.union(*people))
    trained = {i for block in training_blocks() for i in block.people}
    assert trained <= set(split_people("train"))
    assert len(trained) == BASE_PEOPLE


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation, held_out"):
        split_people("test")


def test_a_person_is_the_same_every_time_and_differs_from_others():
    assert np.array_equal(person(7).traits, person(7).traits)
    assert not np.array_equal(person(7).traits, person(8).traits)
    assert person(7).traits.shape == (len(TRAITS),)
