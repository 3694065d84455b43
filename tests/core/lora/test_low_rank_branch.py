"""The branch of a layer is what its weight plus ΔW computes, in the input's dtype."""

import pytest
import torch
from torch import nn

from difflora_core.lora.low_rank_branch import LowRankBranch


def factors(rank: int, inside: tuple[int, ...], out: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rank, *inside, generator=generator), torch.randn(out, rank, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize(("alpha", "strength"), [(None, 0.5), (4.0, 0.25), (torch.tensor(1.0), 1.0)])
def test_a_linear_layer(alpha: float | None, strength: float) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(2, 3, 6)
    down, up = factors(2, (6,), 5)
    expected = x @ (layer.weight + 0.5 * up @ down).mT + layer.bias
    torch.testing.assert_close(layer(x) + LowRankBranch(down, up, alpha, strength)(x, layer), expected)


@torch.no_grad()
@pytest.mark.parametrize("flat", [True, False])
def test_a_convolution_with_its_stride_and_padding(flat: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 5, 3, stride=2, padding=1), torch.randn(2, 6, 8, 8)
    down, up = factors(2, (6, 3, 3), 5)
    changed = nn.Conv2d(6, 5, 3, stride=2, padding=1)
    changed.weight.copy_(layer.weight + 0.5 * torch.einsum("or,rihw->oihw", up, down))
    changed.bias.copy_(layer.bias)
    branch = LowRankBranch(down.flatten(1) if flat else down, up if flat else up[:, :, None, None], None, 0.5)
    torch.testing.assert_close(layer(x) + branch(x, layer), changed(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_another_dtype_is_computed_in() -> None:
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    branch = LowRankBranch(*factors(2, (6,), 5), None, 1.0)
    exact = branch(x, layer)
    half = branch(x.bfloat16(), layer)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.05)
    branch.release()
    torch.testing.assert_close(branch(x, layer), exact)
