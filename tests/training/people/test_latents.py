"""Latents of a store's LoRAs, and the frozen LAE that they come from."""

import pytest
import torch

from difflora_core.files import read_tensors, write_tensors
from tests.training.denoiser.toy_run import PEOPLE, write_world
from training.people import latents as latents_module
from training.people.latents import cached_latents, open_lae
from training.store.lora_store import LoRAStore


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path)


def test_latents_are_encoded_once_for_an_lae_and_a_store(world, monkeypatch):
    store, lae = LoRAStore.open(world / "store"), open_lae(world / "lae.safetensors")
    calls = []
    encode = latents_module._encode
    monkeypatch.setattr(latents_module, "_encode", lambda *a: calls.append(a[3]) or encode(*a))
    path = world / "latents.safetensors"
    latents, people = cached_latents([store], "train", lae, path)
    assert (latents.shape, people) == ((24, 2, 3), PEOPLE["train"])
    loras, _ = store.read("train")
    torch.testing.assert_close(latents, lae.encode(loras))
    again, _ = cached_latents([store], "train", lae, path)
    assert torch.equal(again, latents)
    assert len(calls) == 1
    lae.latent_std *= 2
    other, _ = cached_latents([store], "train", lae, path)
    assert len(calls) == 2
    torch.testing.assert_close(2 * other, latents)
    store.add("train", ["new"], loras[:1])
    assert cached_latents([store], "train", lae, path)[1] == [*PEOPLE["train"], "new"]


@pytest.mark.parametrize(
    "damage", [lambda latents: latents[:3], lambda latents: latents * float("nan"), lambda _: None]
)
def test_kept_latents_that_are_damaged_are_encoded_again(world, damage):
    store, lae = LoRAStore.open(world / "store"), open_lae(world / "lae.safetensors")
    path = world / "latents.safetensors"
    expected, _ = cached_latents([store], "train", lae, path)
    tensors, metadata = read_tensors(path)
    damaged = damage(tensors["latents"])
    write_tensors(path, {"another": torch.zeros(1)} if damaged is None else {"latents": damaged}, metadata)
    assert torch.equal(cached_latents([store], "train", lae, path)[0], expected)
