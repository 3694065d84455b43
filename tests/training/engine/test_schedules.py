"""The schedule of the learning rate."""

import pytest

from training.engine.config import cosine_decay, linear_warmup


def test_warmup_rises_in_equal_steps_and_stays():
    assert [linear_warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert linear_warmup(0, 0) == 1


@pytest.mark.parametrize(("progress", "factor"), [(0, 1), (0.5, 0.525), (1, 0.05), (2, 0.05)])
def test_the_cosine_ends_at_its_final_value(progress, factor):
    assert cosine_decay(progress, 0.05) == pytest.approx(factor)
