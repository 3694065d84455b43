"""From scores to a metric's result."""

import numpy as np

from training.evaluation.metrics.metric import Better, Description
from training.evaluation.results import metric_result

KINDS = ("view", "style", "complex", "action", "clothing", "attribute", "background", "accessory")


def test_kinds_of_prompts_have_means_in_the_prompts_order() -> None:
    """In an order that changes from run to run, equal reports would be different files."""
    columns: dict[str, Better] = {"x": "higher"}
    scores = {("own", "ann"): {"x": np.arange(8.0)}, ("own", "bob"): {"x": np.arange(8.0) + 1}}
    about = columns, Description("", "", "", "")
    found = metric_result("metric", about, scores, ["own"], ["ann", "bob"], KINDS, "own", 0).kinds["x"]["own"]
    assert list(found.items()) == [(kind, number + 0.5) for number, kind in enumerate(KINDS)]
