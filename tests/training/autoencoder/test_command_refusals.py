"""What train-lae says to other runs' folders and to bad stores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora_core.files import read_tensors, write_tensors
from tests.training.autoencoder.small_runs import LAYOUT, people, train, written
from training.store.lora_store import LoRAStore


def test_a_run_of_another_network_is_not_resumed(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"belongs to a run with lae.channels 4, the configuration says 5"):
        train(tmp_path, lae={"channels": 5})


def test_a_run_with_other_training_settings_is_not_resumed(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"belongs to a run with training.batch 8, the configuration says 6"):
        train(tmp_path, training={"batch": 6})
    with pytest.raises(ValueError, match=r"belongs to a run with training.evaluation.interval 6, the config.* says 4"):
        train(tmp_path, training={"evaluation": {"interval": 4}})
    train(tmp_path, training={"evaluation": {"interval": 6, "patience": 3}})


def test_a_run_of_as_many_other_people_is_not_resumed(tmp_path):
    train(tmp_path)
    shutil.rmtree(tmp_path / "store")
    store = LoRAStore(tmp_path / "store", LAYOUT)
    store.add("train", [f"other{i:02d}" for i in range(24)], people(24))
    store.add("validation", [f"v{i}" for i in range(8)], people(8, 9))
    with pytest.raises(ValueError, match=r"belongs to a run with people \(hash\) '\w{16}', the configuration says"):
        train(tmp_path)


def test_a_run_of_loras_that_were_trained_again_is_not_resumed(tmp_path):
    train(tmp_path)
    shutil.rmtree(tmp_path / "store")
    store = LoRAStore(tmp_path / "store", LAYOUT)
    store.add("train", [f"t{i:02d}" for i in range(24)], 1.01 * people(24))
    store.add("validation", [f"v{i}" for i in range(8)], people(8, 9))
    with pytest.raises(ValueError, match=r"belongs to a run with LoRAs \(hash\) '\w{16}', the configuration says"):
        train(tmp_path)


def broken(folder: Path, number: float) -> None:
    """A person's LoRA as another program may have written it."""
    written(folder)
    path = folder / "store" / "train" / "t12.safetensors"
    tensors, metadata = read_tensors(path)
    tensors["loras"][3] = number
    write_tensors(path, tensors, metadata)


@pytest.mark.parametrize("in_memory_gb", [8.0, 0.0], ids=["memory", "disk"])
def test_a_lora_of_zeros_is_named(tmp_path, in_memory_gb):
    broken(tmp_path, 0.0)
    with pytest.raises(ValueError, match="the LoRA of t15 is zero throughout"):
        train(tmp_path, in_memory_gb=in_memory_gb)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_lora_that_is_not_finite_is_named(tmp_path, number):
    broken(tmp_path, number)
    with pytest.raises(ValueError, match="the LoRA of t15 holds NaN or infinite weights"):
        train(tmp_path)


def test_a_lora_on_disk_that_is_not_finite_stops_the_run(tmp_path):
    broken(tmp_path, float("nan"))
    with pytest.raises(ValueError, match="the LoRA of t15 holds NaN or infinite weights"):
        train(tmp_path, in_memory_gb=0.0)


def test_stores_of_two_ranks_are_refused(tmp_path):
    written(tmp_path)
    LoRAStore(tmp_path / "other", replace(LAYOUT, rank=3))
    with pytest.raises(ValueError, match=r"other holds LoRAs of another layout than .*store: rank 3 instead of 2"):
        train(tmp_path, stores=["store", "other"])


def test_a_store_of_another_layout_than_the_configured_is_refused(tmp_path):
    unet = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    unet |= {"block_out_channels": [32], "layers_per_block": 1, "cross_attention_dim": 16, "norm_num_groups": 8}
    (tmp_path / "unet.json").write_text(json.dumps(unet), encoding="utf-8")
    with pytest.raises(ValueError, match="another layout than the configuration: rank 2 instead of 4"):
        train(tmp_path, layout={"unet": "unet.json"})


def test_a_shard_of_another_rank_in_the_store_is_refused(tmp_path):
    written(tmp_path)
    write_tensors(tmp_path / "store" / "train" / "x.safetensors", {"loras": torch.ones(1, 7)}, {"people": '["x"]'})
    with pytest.raises(ValueError, match=r"x.safetensors holds LoRAs F32 \[1, 7\], expected F32"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (1, 3, "the training split has 1 people: an autoencoder needs at least two"),
        (0, 3, "the training split has 0 people"),
        (9, 0, "the validation split is empty"),
        (5, 3, "a batch has 8 LoRAs, there are 5 to train on"),
    ],
)
def test_too_few_people_are_refused(tmp_path, training, validation, message):
    store = LoRAStore(tmp_path / "store", LAYOUT)
    for split, count in (("train", training), ("validation", validation)):
        if count:
            store.add(split, [f"{split[0]}{i}" for i in range(count)], people(count))
    with pytest.raises(ValueError, match=message):
        train(tmp_path)
