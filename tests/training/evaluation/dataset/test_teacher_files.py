"""LoRAs of a store as files, one for each person who is evaluated."""

import shutil
from pathlib import Path

import pytest
import torch

from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.layout import LoRALayout
from miniature.base_model.config import UNET
from tests.training.evaluation.small_evaluation import PEOPLE, SmallEvaluation
from training.evaluation.methods.loras.store_fingerprint import store_fingerprint
from training.evaluation.settings import MethodSettings
from training.store.lora_store import LoRAStore

LAYOUT = LoRALayout.from_config(UNET, 1)


@pytest.fixture
def store(small: SmallEvaluation) -> LoRAStore:
    store = LoRAStore(small.folder / "store", LAYOUT)
    store.add("train", ["dan", PEOPLE[1]], loras(1, 2))
    store.add("test", [PEOPLE[2], PEOPLE[0]], loras(3, 4))
    return store


def loras(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, LAYOUT.numel).clone()


def teachers(store: LoRAStore) -> dict[str, MethodSettings]:
    return {"none": MethodSettings("none"), "teacher": MethodSettings("lora", store.folder)}


def test_everybody_s_own_lora_is_written(small: SmallEvaluation, store: LoRAStore) -> None:
    small.evaluation(methods=teachers(store)).run()
    folder = small.folder / "output" / "teachers" / "teacher"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(PEOPLE)
    for person, value in zip(PEOPLE, (4, 2, 3), strict=True):
        assert torch.equal(read_lora(folder / f"{person}.safetensors", LAYOUT), loras(value)[0])
    assert small.report()["settings"]["methods"]["teacher"]["path"] == str(store.folder)
    assert small.report()["methods"]["teacher"]["cost"]["parameters"] == LAYOUT.numel


def times(folder: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_only_a_lora_that_was_trained_again_is_written_again(small: SmallEvaluation, store: LoRAStore) -> None:
    small.evaluation(methods=teachers(store)).run()
    before = times(small.folder / "output" / "teachers")
    small.base.generated = 0
    small.evaluation(methods=teachers(store)).run()
    assert (times(small.folder / "output" / "teachers"), small.base.generated) == (before, 0)
    (shard,) = store.paths("test")
    store.add("test", [PEOPLE[2], PEOPLE[0]], loras(3, 5), replaced=shard)
    small.evaluation(methods=teachers(store)).run()
    after = times(small.folder / "output" / "teachers")
    assert {person for person in after if after[person] != before[person]} == {PEOPLE[0]}
    assert small.base.generated == 2 * 2


def test_a_copied_store_is_as_current_as_the_original(small: SmallEvaluation, store: LoRAStore) -> None:
    small.evaluation(methods=teachers(store)).run()
    before, known = times(small.folder / "output" / "teachers"), store_fingerprint([store], "train", "test")
    copied = LoRAStore.open(shutil.copytree(store.folder, small.folder / "copy", copy_function=shutil.copyfile))
    assert store_fingerprint([copied], "train", "test") == known
    small.base.generated = 0
    small.evaluation(methods=teachers(copied)).run()
    assert (times(small.folder / "output" / "teachers"), small.base.generated) == (before, 0)
    (shard,) = copied.paths("test")
    copied.add("test", [PEOPLE[2], PEOPLE[0]], loras(3, 5), replaced=shard)
    assert store_fingerprint([copied], "train", "test") != known


def test_somebody_without_a_lora_is_named(small: SmallEvaluation, store: LoRAStore) -> None:
    (shard,) = store.paths("test")
    store.remove(shard)
    with pytest.raises(FileNotFoundError, match=r"2 of 3 people have no LoRA in .*store, first ann"):
        small.evaluation(methods=teachers(store))
