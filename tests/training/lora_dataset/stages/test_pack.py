"""Trained LoRAs go into the store once, into a split of their own, and more people only add shards."""

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora_core.files import write_tensors
from difflora_core.lora.canonical_form import canonical
from difflora_core.lora.file_formats import save_lora
from difflora_core.seeds import generator_for
from miniature.base_model import config as base_config
from training.dreambooth.config import DreamBoothConfig
from training.lora_dataset.config import DatasetConfig, PackConfig
from training.lora_dataset.configured_base import configured_layout
from training.lora_dataset.fingerprints import hash_tensor
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import OutOfSpaceError
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages import pack_plan
from training.lora_dataset.stages.import_loras import ImportLoRAs
from training.lora_dataset.stages.pack import PACK
from training.lora_dataset.stages.pack_plan import split_of
from training.store.lora_store import LoRAStore


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    """A workspace whose base model is the miniature's, of which packing reads the configuration only."""
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(json.dumps(base_config.UNET), encoding="utf-8")
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    teacher = DreamBoothConfig(rank=1)
    return DatasetConfig(
        tmp_path / "work", tmp_path / "base", dreambooth=teacher, pack=PackConfig(0.0, 0.0, people_per_shard=3)
    )


def lora_of(person: str, config: DatasetConfig) -> torch.Tensor:
    return torch.randn(configured_layout(config).numel, generator=generator_for(person))


def train(config: DatasetConfig, *people: str, broken: str = "", factor: float = math.nan, again: str = "") -> None:
    """Write what stage dreambooth writes of a group. again: who is trained once more, with another result."""
    factors = {broken: factor, again: 2.0}
    loras = torch.stack([lora_of(person, config) * factors.get(person, 1.0) for person in people])
    folder, tensors = config.stage("dreambooth"), {"loras": loras, "loss": torch.arange(len(people)) / 10}
    write_tensors(folder / f"{people[0]}.safetensors", tensors, {"people": json.dumps(list(people))})
    facts = {"people": list(people), "loras": [hash_tensor(lora) for lora in loras]}
    Manifest(folder).write(Record(people[0], facts=facts))


def store_of(config: DatasetConfig) -> LoRAStore:
    return LoRAStore.open(config.stage("store"))


def test_all_people_are_packed_with_loss_and_provenance(config):
    train(config, "ann", "bob")
    train(config, "cat", "dan")
    Manifest(config.stage("filter")).write(Record("bob", facts={"kept": [{"similarity": 0.5}, {"similarity": 0.7}]}))
    run_stage(PACK, config)
    loras, people = store_of(config).read("train")
    assert sorted(people) == ["ann", "bob", "cat", "dan"]
    for lora, person in zip(loras, people, strict=True):
        assert torch.equal(lora, lora_of(person, config))
    assert sorted(len(shard.people) for shard in store_of(config).shards("train")) == [1, 3]
    bob = next(entry for entry in store_of(config).entries() if entry.person == "bob")
    assert (bob.split, bob.rank) == ("train", 1)
    assert bob.measured == pytest.approx({"loss": 0.1, "similarity": 0.6})
    assert bob.provenance["teacher"]["seed"] == config.dreambooth.seed
    assert bob.provenance["base"]["name"] == "base"
    assert bob.provenance["file"] == "dreambooth/ann.safetensors"


def test_a_second_run_writes_nothing(config):
    train(config, "ann", "bob")
    run_stage(PACK, config)
    before = {path: path.stat().st_mtime_ns for path in config.stage("store").rglob("*.safetensors")}
    assert PACK.items(config) == []
    run_stage(PACK, config)
    assert {path: path.stat().st_mtime_ns for path in config.stage("store").rglob("*.safetensors")} == before


def test_more_people_only_add_shards_and_nobody_changes_split(config):
    config = replace(config, pack=PackConfig(0.3, 0.3, people_per_shard=2))
    names = [f"person{i}" for i in range(12)]
    train(config, *names[:6])
    run_stage(PACK, config)
    before = {path: path.read_bytes() for path in config.stage("store").rglob("*.safetensors")}
    where = {entry.person: entry.split for entry in store_of(config).entries()}
    train(config, *names[6:])
    run_stage(PACK, config)
    assert all(path.read_bytes() == content for path, content in before.items())
    after = {entry.person: entry.split for entry in store_of(config).entries()}
    assert sorted(after) == sorted(names)
    assert where.items() <= after.items()
    assert set(after.values()) == {"train", "validation", "test"}


def test_shares_are_kept_and_depend_on_the_name_alone():
    splits = [split_of(f"p{i}", 0.1, 0.2) for i in range(5000)]
    assert splits.count("validation") / 5000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("test") / 5000 == pytest.approx(0.2, abs=0.02)
    # fixed for all time: a store that exists has to be continued with the same splits
    found = [split_of(name, 0.4, 0.3) for name in ("ann", "bob", "cat", "dan", "zoe")]
    assert found == ["validation", "test", "test", "train", "test"]


@pytest.mark.parametrize("shares", [(-0.1, 0.0), (0.6, 0.6)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares of people lie between 0 and 1"):
        split_of("ann", *shares)


def test_canonical_form_is_stored_if_configured(config):
    config = replace(config, pack=replace(config.pack, canonical=True))
    train(config, "ann")
    run_stage(PACK, config)
    assert torch.equal(
        store_of(config).read("train")[0][0], canonical(lora_of("ann", config), configured_layout(config))
    )


def test_raw_and_canonical_are_not_mixed(config):
    train(config, "ann")
    run_stage(PACK, config)
    with pytest.raises(ValueError, match="holds raw LoRAs, the configuration says canonical"):  # also with nothing new
        run_stage(PACK, replace(config, pack=replace(config.pack, canonical=True)))


@pytest.mark.parametrize(("factor", "reason"), [(math.nan, "NaN"), (1e4, "times as large as the others")])
def test_a_broken_lora_is_dropped_for_good_and_the_others_stored(config, factor, reason):
    train(config, "ann", "bob", "cat", broken="bob", factor=factor)
    run_stage(PACK, config)
    assert sorted(store_of(config).read("train")[1]) == ["ann", "cat"]
    (record,) = Manifest(config.stage("pack")).records()
    (dropped,) = record.facts["dropped"]
    assert dropped["person"] == "bob"
    assert reason in dropped["reason"]
    assert PACK.items(config) == []


def test_an_unreadable_group_fails_and_is_tried_again(config):
    train(config, "ann")
    train(config, "bob")
    path = config.stage("dreambooth") / "ann.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    run_stage(PACK, config)
    assert store_of(config).read("train")[1] == ["bob"]
    (record,) = Manifest(config.stage("pack")).records()
    assert record.status == "failed"
    assert "ann" in record.reason
    path.write_bytes(content)
    run_stage(PACK, config)
    assert sorted(store_of(config).read("train")[1]) == ["ann", "bob"]
    assert {record.status for record in Manifest(config.stage("pack")).records()} == {"done"}


def test_a_writer_killed_before_its_record_loses_nothing(config):
    train(config, "ann", "bob")
    PACK.begin(config)
    (item,) = PACK.items(config)
    PACK.worker(config, "cpu")(item)  # the shard is there, its record isn't
    run_stage(PACK, config)
    (record,) = Manifest(config.stage("pack")).records()
    assert record.facts["people"] == ["ann", "bob"]
    trained = [lora for group in Manifest(config.stage("dreambooth")).records() for lora in group.facts["loras"]]
    assert record.inputs == {f"LoRA of {person}": lora for person, lora in zip(("ann", "bob"), trained, strict=True)}
    assert store_of(config).read("train")[1] == ["ann", "bob"]


def test_workers_that_start_late_follow_the_same_plan(config):
    train(config, "ann", "bob", "cat", "dan", "eve")
    PACK.begin(config)
    first, second = PACK.items(config)
    PACK.worker(config, "cpu")(first)
    PACK.worker(config, "cpu")(second)
    assert len(store_of(config).read("train")[1]) == 5


def test_imported_loras_are_packed_too_and_a_name_counts_once(config, tmp_path):
    for name in ("ann", "zoe"):
        save_lora(tmp_path / "mine" / f"{name}.safetensors", lora_of(f"my {name}", config), configured_layout(config))
    run_stage(ImportLoRAs(tmp_path / "mine"), config)
    train(config, "ann")
    run_stage(PACK, config)
    entries = {entry.person: entry for entry in store_of(config).entries()}
    assert entries["zoe"].provenance["source"] == "import"
    assert math.isnan(entries["zoe"].measured["loss"])
    assert entries["ann"].provenance["source"] == "dreambooth"
    twice = Manifest(config.stage("pack")).read("twice-ann")
    assert twice.status == "dropped"
    assert "from dreambooth/ann.safetensors; import/ann.safetensors is left out" in twice.reason


def test_a_full_disk_stops_the_stage_and_the_next_run_goes_on(config, monkeypatch):
    train(config, "ann", "bob")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutOfSpaceError, match="the disk is full"):
            run_stage(PACK, config)
    files = {path.name for path in config.stage("store").rglob("*") if path.is_file()}
    assert files - {".lock"} == {"layout.json"}
    assert list(Manifest(config.stage("pack")).records()) == []
    run_stage(PACK, config)
    assert store_of(config).read("train")[1] == ["ann", "bob"]


def test_a_store_that_was_deleted_is_packed_again(config):
    train(config, "ann", "bob")
    run_stage(PACK, config)
    shutil.rmtree(config.stage("store"))
    run_stage(PACK, replace(config, pack=replace(config.pack, canonical=True)))
    assert store_of(config).read("train")[1] == ["ann", "bob"]
    assert {record.status for record in Manifest(config.stage("pack")).records()} == {"done"}


def stored(config: DatasetConfig) -> dict[str, torch.Tensor]:
    loras, people = store_of(config).read("train")
    assert len(set(people)) == len(people)
    return dict(zip(people, loras, strict=True))


def test_a_lora_that_was_trained_again_replaces_the_one_before(config):
    train(config, "ann", "bob")
    train(config, "cat", "dan")
    run_stage(PACK, config)
    before = {path.name: path.read_bytes() for path in store_of(config).paths("train")}
    train(config, "cat", "dan", again="dan")
    run_stage(PACK, config, keep=True)
    assert {path.name: path.read_bytes() for path in store_of(config).paths("train")} == before
    run_stage(PACK, config)
    changed = [path.name for path in store_of(config).paths("train") if path.read_bytes() != before[path.name]]
    assert changed == ["dan.safetensors"]
    found = stored(config)
    assert torch.equal(found["dan"], 2 * lora_of("dan", config))
    assert all(torch.equal(found[name], lora_of(name, config)) for name in ("ann", "bob", "cat"))
    assert PACK.items(config) == []
    assert {record.status for record in Manifest(config.stage("pack")).records()} == {"done"}


def test_who_is_gone_from_the_pipeline_leaves_the_store_and_may_come_back(config):
    train(config, "ann", "bob", "cat")
    train(config, "dan")
    prepared = Manifest(config.stage("preprocess"))
    run_stage(PACK, config)
    for name in ("ann", "dan"):
        prepared.write(Record(name, "gone"))
    shutil.rmtree(config.stage("dreambooth"))  # whose file somebody deleted stays as it is in the store
    train(config, "dan")
    run_stage(PACK, config)
    assert sorted(stored(config)) == ["bob", "cat"]
    assert torch.equal(stored(config)["cat"], lora_of("cat", config))
    assert PACK.items(config) == []
    assert [record.facts["people"] for record in Manifest(config.stage("pack")).records()] == [["bob", "cat"]]
    for name in ("ann", "dan"):
        prepared.write(Record(name))
    train(config, "ann")
    run_stage(PACK, config)
    assert sorted(stored(config)) == ["ann", "bob", "cat", "dan"]


def test_a_replaced_file_that_cannot_be_read_leaves_the_shard_as_it_is(config):
    train(config, "ann", "bob")
    run_stage(PACK, config)
    train(config, "ann", "bob", again="ann")
    (config.stage("dreambooth") / "ann.safetensors").write_bytes(b"damaged")
    assert run_stage(PACK, config) == 1
    assert sorted(stored(config)) == ["ann", "bob"]
    train(config, "ann", "bob", again="ann")
    assert run_stage(PACK, config) == 0
    assert torch.equal(stored(config)["ann"], 2 * lora_of("ann", config))


def test_a_store_without_anything_to_pack_is_an_error(config):
    with pytest.raises(ValueError, match="run the stage `dreambooth` first"):
        run_stage(PACK, config)


def test_who_is_gone_is_not_read_again_for_each_shard(config, monkeypatch):
    config = replace(config, pack=replace(config.pack, people_per_shard=1))
    train(config, "ann", "bob", "cat")
    run_stage(PACK, config)
    passes, original = [], pack_plan.people_gone
    monkeypatch.setattr(pack_plan, "people_gone", lambda config: passes.append(1) or original(config))
    assert pack_plan.make_plan(config, store_of(config), {}) == {}
    assert len(passes) == 2  # for LoRAs that are ready, and for those in the store
