"""What the trainers' steps will cost, by what was measured of whole steps."""

from dataclasses import replace

import pytest

from training.recipes.planning.cards import read_card
from training.recipes.planning.plan import make_plan
from training.recipes.recipe import read_recipe


@pytest.mark.parametrize(("accumulate", "ms"), [(1, 200), (2, 100), (4, 50)])
def test_a_measured_step_counts_for_as_many_micro_batches_as_it_had(accumulate, ms):
    """The recipe has two of them in a step of train-lae."""
    card = read_card("h100")
    (figure,) = (figure for figure in card.steps if figure.step == "train-lae")
    card = replace(card, steps=(replace(figure, ms=100, accumulate=accumulate),))
    (row,) = (row for row in make_plan(read_recipe("sdxl-24gb"), 3000, 1, card).rows if row.name == "train-lae")
    assert row.seconds == pytest.approx(20_000 * ms / 1000)
    assert f"20,000 steps × {ms} ms measured" in row.note
