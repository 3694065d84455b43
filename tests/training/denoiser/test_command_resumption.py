"""What a run of `train-difflora` is resumed with, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from difflora_core.config import EncoderNames
from training.people.embeddings import EmbeddingCache, write_embeddings
from training.store.lora_store import LoRAStore

from .toy_run import LAYOUT, PEOPLE, configure, train, write_lae, write_world


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path)


@pytest.mark.parametrize("change", [{"training": {"blend": 0.5}}, {"loop": {"steps": 12}}, {"mif": {"mode": "face"}}])
def test_a_run_is_not_resumed_with_other_settings(world, change):
    train(world)
    configure(world, **change)
    with pytest.raises(ValueError, match="belongs to a run with"):
        train(world)


def test_how_a_run_is_computed_may_change(world):
    path = train(world)
    configure(world, loop={"shard": True, "save_every": 5})
    assert train(world) == path


def test_a_run_is_not_resumed_with_another_lae(world):
    train(world)
    loras, _ = LoRAStore(world / "store", LAYOUT).read("train")
    write_lae(world / "lae.safetensors", loras[:12])
    with pytest.raises(ValueError, match="belongs to a run with lae"):
        train(world)


def test_a_run_is_not_resumed_with_other_loras_or_validation_people(world):
    train(world)
    path = world / "store" / "train" / "ann0.safetensors"
    store = LoRAStore(world / "store", LAYOUT)
    loras = store.read("train")[0]
    store.add("train", PEOPLE["train"], 1.01 * loras, replaced=path)
    with pytest.raises(ValueError, match=r"belongs to a run with LoRAs \(hash\)"):
        train(world)
    store.add("train", PEOPLE["train"], loras, replaced=path)
    train(world)
    path = world / "store" / "validation" / "bob0.safetensors"
    store.add("validation", PEOPLE["validation"][:4], store.read("validation")[0][:4], replaced=path)
    with pytest.raises(ValueError, match="belongs to a run with validation people"):
        train(world)


def test_a_run_is_not_resumed_with_embeddings_of_other_images(world):
    """By encoders of the same names, as after somebody's photos or the encoder's files were replaced."""
    train(world)
    path = next((world / "embeddings").glob("*.safetensors"))
    cache = EmbeddingCache.open(path)
    people = {name: replace(own, face=own.face.flip(-1)) for name, own in cache.people.items()}
    write_embeddings(path, people, cache.encoders)
    with pytest.raises(ValueError, match=r"belongs to a run with embeddings \(hash\)"):
        train(world)


def embed_again(world: Path, made_from: str, factor: float) -> None:
    """Write everybody's embeddings anew, times a factor, with what they were made from."""
    for path in (world / "embeddings").glob("*.safetensors"):
        cache = EmbeddingCache.open(path)
        people = {
            name: replace(own, face=own.face * factor, made_from=f"{made_from} of {name}")
            for name, own in cache.people.items()
        }
        write_embeddings(path, people, cache.encoders)


def test_a_run_is_resumed_after_the_same_images_were_embedded_on_another_device(world):
    """Where the last bits differ; the run's own record is of images and encoders."""
    embed_again(world, "images", 1.0)
    path = train(world)
    embed_again(world, "images", 1 + 1e-6)
    assert train(world) == path
    embed_again(world, "other images", 1.0)
    with pytest.raises(ValueError, match=r"belongs to a run with embeddings \(hash\)"):
        train(world)


def test_a_run_is_not_resumed_with_embeddings_of_another_encoder(world):
    """As wide as the ones before, so that nothing else would tell."""
    train(world)
    for path in (world / "embeddings").glob("*.safetensors"):
        people = EmbeddingCache.open(path).people
        write_embeddings(path, people, EncoderNames("antelopev2", "images"))
    configure(world, encoders={"face": "antelopev2", "image": "images"})
    with pytest.raises(ValueError, match=r"a run with encoders\.face 'faces', the configuration says 'antelopev2'"):
        train(world)
