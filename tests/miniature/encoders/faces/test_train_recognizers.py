"""Batches for training the recognizers."""

import numpy as np

from miniature.world.people import TRAITS


def test_look_alikes_are_different_people_who_agree():
    from miniature.encoders.faces.train_recognizers import look_alikes

    traits = np.random.default_rng(0).uniform(-1, 1, (300, len(TRAITS)))
    rows = look_alikes(traits, 60, 6, np.random.default_rng(1))
    assert len(set(rows.tolist())) == 60
    groups = traits[rows].reshape(10, 6, -1)
    assert groups.std(axis=1).mean() < 0.97 * traits.std(axis=0).mean()
    np.testing.assert_array_equal(rows, look_alikes(traits, 60, 6, np.random.default_rng(1)))
