"""LoRAs of several stores: the same in memory as on disk, and checked when they are read."""

import pytest
import torch

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.store.lora_store import LoRAStore
from training.store.loras import (
    LoRAsInMemory,
    LoRAsOnDisk,
    ShownReads,
    digest_of_loras,
    in_batches,
    open_loras,
    open_stores,
    people_of,
)

LAYOUT = LoRALayout((LoRAModule("m.transformer_blocks.0.attn1.to_q", 3, 2),), rank=2)
LORAS = torch.randn(5, LAYOUT.numel, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def stores(tmp_path):
    """Three people in one store, two in another."""
    first, second = (LoRAStore(tmp_path / name, LAYOUT) for name in ("first", "second"))
    first.add("train", ["ann", "bob", "cat"], LORAS[:3])
    second.add("train", ["dan", "eve"], LORAS[3:])
    return [first, second]


@pytest.mark.parametrize("in_memory_bytes", [0, 1e9])
def test_rows_and_columns_of_several_stores(stores, in_memory_bytes, monkeypatch):
    monkeypatch.setattr("training.store.loras.LORAS_PER_READ", 2)
    loras = open_loras(stores, "train", in_memory_bytes)
    assert isinstance(loras, LoRAsInMemory if in_memory_bytes else LoRAsOnDisk)
    assert len(loras) == 5
    assert torch.equal(loras.read([4, 0, 3]), LORAS[[4, 0, 3]])
    assert torch.equal(loras.columns(2, 7), LORAS[:, 2:7])
    assert torch.equal(torch.cat(list(in_batches(loras))), LORAS)


def test_reads_are_counted_and_unchanged(stores, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)  # bars are for terminals
    with ShownReads(open_loras(stores, "train", 0), "statistics") as shown:
        assert len(shown) == 5
        assert torch.equal(shown.columns(2, 7), LORAS[:, 2:7])
        shown.columns(0, 3)
        assert shown.bar.n == 8


def test_loras_that_were_trained_again_have_another_hash(stores):
    """The same on disk and in memory, whichever of the factors a training has changed."""
    before = digest_of_loras(LoRAsOnDisk(stores, "train"), LoRAsOnDisk(stores, "validation"))
    assert before == digest_of_loras(LoRAsInMemory(LORAS))
    for weight in (0, -1):
        again = LORAS.clone()
        again[1, weight] += 1e-3
        assert digest_of_loras(LoRAsInMemory(again)) != before


def test_people_are_in_the_order_of_the_rows(stores):
    people = people_of(stores, "train")
    assert people == ["ann", "bob", "cat", "dan", "eve"]
    assert [LoRAsOnDisk(stores, "train").person(row) for row in range(5)] == people


@pytest.mark.parametrize(("factor", "message"), [(float("nan"), "eve holds NaN"), (0.0, "eve is zero throughout")])
def test_a_useless_lora_is_named(stores, factor, message):
    path = stores[1].paths("train")[0]
    write_tensors(path, {"loras": torch.stack([LORAS[3], factor * LORAS[4]])}, {"people": '["dan", "eve"]'})
    with pytest.raises(ValueError, match=message):
        LoRAsOnDisk(stores, "train").read([0, 4])
    with pytest.raises(ValueError, match=message):
        open_loras(stores, "train", 1e9)


@pytest.mark.parametrize("in_memory_bytes", [0, 1e9])
def test_a_lora_that_diverged_is_named(stores, in_memory_bytes):
    stores[1].add("train", ["fay"], 1e4 * LORAS[:1])
    with pytest.raises(ValueError, match=r"LoRA of fay is \S+ times as large as the median one"):
        open_loras(stores, "train", in_memory_bytes)


def test_stores_of_two_layouts_are_refused(stores, tmp_path):
    other = LoRAStore(tmp_path / "other", LoRALayout(LAYOUT.modules, 3))
    with pytest.raises(ValueError, match="another layout than"):
        open_stores([stores[0].folder, other.folder])
    with pytest.raises(ValueError, match="another layout than the configuration"):
        open_stores([stores[0].folder], other.layout)


def test_a_person_in_two_stores_is_refused(stores):
    stores[1].add("validation", ["bob"], LORAS[:1])
    with pytest.raises(ValueError, match="person bob is in two of the stores"):
        open_stores([store.folder for store in stores])


def test_no_store_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no store of LoRAs is named"):
        open_stores([])
    with pytest.raises(FileNotFoundError, match="holds no store"):
        open_stores([tmp_path])


def test_weights_whose_sum_is_zero_or_infinite_are_none_of_these():
    loras = torch.tensor([[1.0, -1.0, 0.0], [3e38, 3e38, 3e38]])
    assert torch.equal(LoRAsInMemory(loras).read([0, 1]), loras)
