"""How `benchmarks.images.metric_models` counts agreement."""

import torch

from benchmarks.images.metric_models import agreement


def test_agreement_is_the_share_of_pairs_in_the_judges_order():
    verdicts = torch.tensor([[0, 1, 2]])
    assert agreement(torch.tensor([[0.1, 0.2, 0.3]]), verdicts, 1, 1) == 1.0
    assert agreement(torch.tensor([[0.3, 0.2, 0.1]]), verdicts, 1, 1) == 0.0
    assert agreement(torch.tensor([[0.1, 0.2, 0.2]]), verdicts, 1, 1) == 0.75
    assert agreement(torch.tensor([[0.1, 0.9, 0.0]]), verdicts, 2, 2) == 0.0
