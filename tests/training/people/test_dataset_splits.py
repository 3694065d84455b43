"""Who of a dataset is kept from training, with a store of teachers and without."""

from pathlib import Path

import pytest
import torch

from difflora_core.lora.layout import LoRALayout
from miniature.base_model.config import UNET
from training.lora_dataset.config import DatasetConfig, PackConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.pack_plan import split_of
from training.people.dataset_splits import people_of_split
from training.store.lora_store import LoRAStore

PEOPLE = [f"person_{number:02d}" for number in range(12)]
SHARES = PackConfig(validation=0.3, test=0.4)


def named(split: str) -> list[str]:
    return [person for person in PEOPLE if split_of(person, SHARES.validation, SHARES.test) == split]


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    """A dataset whose images are prepared."""
    config = DatasetConfig(tmp_path / "work", tmp_path / "base", pack=SHARES)
    for person in PEOPLE:
        Manifest(config.stage("preprocess")).write(Record(person))
    return config


def fill_store(config: DatasetConfig, **people: list[str]) -> None:
    layout = LoRALayout.from_config(UNET, 1)
    store = LoRAStore(config.store, layout)
    for split, names in people.items():
        store.add(split, names, torch.ones(len(names), layout.numel))


def test_without_teachers_names_decide(config: DatasetConfig) -> None:
    assert people_of_split(config, "test") == named("test")
    assert people_of_split(config, "validation") == named("validation")
    assert len(named("test")) > 2
    Manifest(config.stage("preprocess")).write(Record(named("test")[0], "dropped", "no face"))
    assert people_of_split(config, "test") == named("test")[1:]


def test_with_teachers_the_store_has_to_say_the_same(config: DatasetConfig) -> None:
    """Others are trained on: they were packed with other shares, or have no teacher."""
    packed, moved, *_ = named("test")
    fill_store(config, test=[packed, named("train")[0]], train=[moved])
    assert people_of_split(config, "test") == [packed]


def test_nobody(config: DatasetConfig) -> None:
    fill_store(config, train=PEOPLE)
    with pytest.raises(
        ValueError, match=r"none of 12 people .*'test': pack.test is 0.4.* larger share, delete .*store"
    ):
        people_of_split(config, "test")
    empty = DatasetConfig(config.workspace / "empty", config.base)
    with pytest.raises(ValueError, match=r"pack.validation is 0.03.* larger share and run the dataset's step again"):
        people_of_split(empty, "validation")
