"""Batch norms of averaged weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recompute_batch_norms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Compute the batch norms' means and variances anew (plain averages over `batches`), and switch to evaluation.

    Needed because averaged (EMA) weights never ran in training: the stored statistics are those of other weights.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for batch in batches:
        network(batch)
    network.eval()
