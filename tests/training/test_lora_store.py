"""The store of LoRAs keeps every person once and never half."""

import pytest
import torch

from difflora_core.layout import LoRALayout, LoRAModule
from training.lora_store import LoRAStore

LAYOUT = LoRALayout((LoRAModule("m.transformer_blocks.0.attn1.to_q", 3, 2),), rank=2)
LORAS = torch.arange(4 * LAYOUT.numel, dtype=torch.float32).view(4, -1)


@pytest.fixture
def store(tmp_path) -> LoRAStore:
    store = LoRAStore(tmp_path / "store", LAYOUT)
    store.add("train", [7, 9], LORAS[2:], loss=torch.tensor([0.3, 0.4]))
    store.add("train", [2, 5], LORAS[:2], loss=torch.tensor([0.1, 0.2]))
    return store


def test_rows_come_back_with_their_people(store):
    loras, people = LoRAStore(store.folder, LAYOUT).read("train")
    assert people == [2, 5, 7, 9]
    assert torch.equal(loras, LORAS)
    assert torch.equal(store.read("train", "loss")[0], torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_a_slice_of_all_loras(store):
    assert torch.equal(store.columns("train", 3, 6), LORAS[:, 3:6])


def test_done_shards_are_known(store):
    assert store.has("train", [7, 9])
    assert not store.has("validation", [7, 9])


def test_a_person_is_stored_once(store):
    with pytest.raises(ValueError, match="person 5 in 'train' already"):
        store.add("train", [1, 5], LORAS[:2])


def test_another_layout_is_refused(store):
    other = LoRALayout(LAYOUT.modules, rank=3)
    with pytest.raises(ValueError, match="another layout: rank 2 instead of 3"):
        LoRAStore(store.folder, other)


def test_broken_numbers_are_refused_with_the_person(store):
    with pytest.raises(ValueError, match="person 31 holds NaN"):
        store.add("train", [30, 31], torch.stack([LORAS[0], LORAS[1] * float("nan")]))


def test_a_half_written_shard_does_not_count(store):
    (store.folder / "train" / ".00011.safetensors.1.partial").write_bytes(b"half")
    assert store.read("train")[1] == [2, 5, 7, 9]


def test_an_empty_split_says_so(store):
    with pytest.raises(FileNotFoundError, match="no LoRAs of split 'held_out'"):
        store.read("held_out")
