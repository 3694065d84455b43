"""Random batches: all rows once per pass, the same for the same seed."""

from itertools import pairwise

import pytest
import torch

from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.store.lora_store import LoRAStore
from training.store.random_batches import random_batches, shuffled
from training.store.row_reader import RowReader

LAYOUT = LoRALayout((LoRAModule("m.transformer_blocks.0.attn1.to_q", 3, 2),), rank=2)


SHARDS = (3, 1, 4, 2)


@pytest.fixture
def store(tmp_path) -> LoRAStore:
    """Ten people in four shards."""
    store, first = LoRAStore(tmp_path / "store", LAYOUT), 0
    for count in SHARDS:
        loras = torch.randn(count, LAYOUT.numel, generator=torch.Generator().manual_seed(first))
        # other tensors in the file move the LoRAs away from where its data begins
        store.add("train", range(first, first + count), loras, a=torch.ones(count), z=torch.ones(count, 3))
        first += count
    return store


@pytest.mark.parametrize("window", [0, 1, 2, 9])
def test_a_pass_has_every_row_once_and_the_next_another_order(store, window):
    whole, _ = store.read("train")
    generator = torch.Generator().manual_seed(0)
    with RowReader(store, "train") as reader:
        passes = []
        for _ in range(2):
            seen = []
            for rows, loras in random_batches(reader, 3, generator, window):
                assert torch.equal(loras, whole[rows])
                seen += rows
            assert len(seen) == len(set(seen)) == 9
            passes.append(seen)
    assert passes[0] != passes[1]


def test_the_same_seed_gives_the_same_order(store):
    with RowReader(store, "train") as reader:
        first, second = (shuffled(reader, torch.Generator().manual_seed(5), 2) for _ in range(2))
    assert first == second


def test_a_window_keeps_to_its_shards(store):
    with RowReader(store, "train") as reader:
        order = shuffled(reader, torch.Generator().manual_seed(1), window=1)
    shards = [next(i for i, end in enumerate((3, 4, 8, 10)) if row < end) for row in order]
    assert sum(one != following for one, following in pairwise(shards)) == 3


def test_reused_memory_is_one(store):
    with RowReader(store, "train") as reader:
        batches = [loras for _, loras in random_batches(reader, 2, torch.Generator().manual_seed(0), reuse=True)]
    assert len({batch.data_ptr() for batch in batches}) == 1


@pytest.mark.parametrize("size", [0, 11])
def test_a_batch_of_impossible_size(store, size):
    with RowReader(store, "train") as reader, pytest.raises(ValueError, match=f"1 to 10 of the 10 rows, found {size}"):
        next(random_batches(reader, size, torch.Generator()))
