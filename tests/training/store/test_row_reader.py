"""Chosen rows of a store are the rows that a whole read gives."""

import pytest
import torch

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.store.lora_store import LoRAStore
from training.store.row_reader import RowReader

LAYOUT = LoRALayout((LoRAModule("m.transformer_blocks.0.attn1.to_q", 3, 2),), rank=2)


SHARDS = (3, 1, 4, 2)


@pytest.fixture
def store(tmp_path) -> LoRAStore:
    """Ten people in four shards."""
    store, first = LoRAStore(tmp_path / "store", LAYOUT), 0
    for count in SHARDS:
        loras = torch.randn(count, LAYOUT.numel, generator=torch.Generator().manual_seed(first))
        # other tensors move the LoRAs away from the beginning of the file's data
        store.add("train", range(first, first + count), loras, a=torch.ones(count), z=torch.ones(count, 3))
        first += count
    return store


def test_rows_in_any_order(store):
    whole, people = store.read("train")
    rows = [9, 0, 4, 4, 3, 7]
    with RowReader(store, "train") as reader:
        assert len(reader) == 10
        assert torch.equal(reader.read(rows), whole[rows])
        assert reader.people(rows) == [people[row] for row in rows]


def test_few_open_files_are_enough(store, monkeypatch):
    monkeypatch.setattr("training.store.row_reader.MAX_OPEN_FILES", 1)
    whole, _ = store.read("train")
    with RowReader(store, "train") as reader:
        for rows in ([9, 0], [3, 8], [0, 9]):
            assert torch.equal(reader.read(rows), whole[rows])
        assert len(reader._files) == 1


def test_memory_is_reused(store):
    whole, _ = store.read("train")
    memory = torch.empty(2, LAYOUT.numel)
    with RowReader(store, "train") as reader:
        assert reader.read([5, 6], memory) is memory
        reader.read([1, 9], memory)
    assert torch.equal(memory, whole[[1, 9]])


@pytest.mark.parametrize(
    "memory",
    [torch.zeros(3, 10), torch.zeros(2, 10, dtype=torch.float16), torch.zeros(10, 2).T],
    ids=["another shape", "another dtype", "not contiguous"],
)
def test_memory_that_does_not_fit_is_refused(store, memory):
    with RowReader(store, "train") as reader, pytest.raises(ValueError, match=r"contiguous float32 .*\(2, 10\)"):
        reader.read([1, 2], memory)


@pytest.mark.parametrize("row", [-1, 10])
def test_a_row_that_is_not_there(store, row):
    with RowReader(store, "train") as reader, pytest.raises(IndexError, match=f"rows 0 to 9, found {row}"):
        reader.read([row])


def test_no_rows(store):
    with RowReader(store, "train") as reader:
        assert reader.read([]).shape == (0, LAYOUT.numel)
    with pytest.raises(FileNotFoundError, match="no LoRAs of split 'test'"):
        RowReader(store, "test")


def test_a_shard_of_another_width_is_refused(store):
    write_tensors(store.folder / "train" / "00020.safetensors", {"loras": torch.zeros(2, 5)}, {"people": "[20, 21]"})
    with pytest.raises(ValueError, match=r"00020\.safetensors holds LoRAs F32 \[2, 5\], expected F32 \(…, 10\)"):
        RowReader(store, "train")


def test_a_file_that_shrinks_while_it_is_read(store):
    with RowReader(store, "train") as reader:
        path = reader.paths[0]
        reader.read([0])
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(ValueError, match="has become shorter"):
            reader.read([0, 1, 2])


def test_a_shard_that_was_written_again_before_it_is_opened(store):
    """A longer header moves the LoRAs: reading where they were would give numbers of other places."""
    with RowReader(store, "train") as reader:
        provenance = [{"file": "a name that the first header did not have"}] * SHARDS[0]
        loras = torch.ones(SHARDS[0], LAYOUT.numel)
        store.add("train", range(SHARDS[0]), loras, provenance=provenance, replaced=reader.paths[0])
        with pytest.raises(ValueError, match=r"00000\.safetensors was changed while the store was read"):
            reader.read([0])
        reader.read([SHARDS[0]])
