"""Seeds are a fixed function of their parts: runs are resumed and repeated on them."""

import torch

from difflora_core.seeds import derive_seed, describe_seed, generator_for


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


def test_a_seed_is_recorded_only_where_it_gives_the_same_draws():
    generator = torch.Generator().manual_seed(5)
    assert describe_seed(generator) == 5
    torch.randn(1, generator=generator)
    assert describe_seed(generator) == "none: the generator had been used before"
    assert describe_seed(generator.manual_seed(7)) == 7
