"""Seeds are a fixed function of their parts: runs are resumed and repeated on them."""

import torch

from difflora_core.seeds import derive_seed, generator_for


def test_a_seed_is_the_same_on_every_machine():
    assert derive_seed(0, "noise", 3) == 6836450846743578670


def test_parts_that_differ_give_other_seeds():
    seeds = [derive_seed(*parts) for parts in ((1, 23), (12, 3), ("1", 23), (1, "23"), (1,), (1, 23, ""), (23, 1))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_of_equal_parts_draw_alike():
    first, second, other = (torch.randn(4, generator=generator_for(*parts)) for parts in ((5, "a"), (5, "a"), (5, "b")))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
