"""The stage `instantid`: a few steps on a few people."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difflora_core.files import write_tensors
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import LATENT_SHAPE
from miniature.comfyui.host import find_tokenizer
from miniature.encoders import instantid, instantid_resampler
from miniature.encoders.instantid import InstantIDLoss, initial_instantid, random_timesteps, train_instantid
from miniature.encoders.instantid_resampler import (
    TOKEN_FACTOR,
    TOKEN_SCALE,
    initial_resampler,
    official_names,
    reference_faces,
)
from miniature.encoders.training_latents import TrainingLatents
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.image_blocks import BLOCK, training_blocks
from miniature.world.people import person
from miniature.world.scenes import TEACHER_IMAGES, training_scene
from training.base_model.sdxl import SDXLBase
from training.engine.loop import train
from training.instantid.instantid_files import InstantID, read_instantid
from training.instantid.instantid_pipeline import InstantIDPipeline

CONTEXT = 96
"""Width of the base model's text conditions."""


@pytest.fixture(scope="module")
def patched() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instantid, "PEOPLE", BLOCK)
        patch.setattr(instantid, "OTHER_PEOPLE", range(BLOCK))
        patch.setattr(instantid, "training_blocks", lambda: training_blocks()[:1])
        patch.setattr(instantid_resampler, "CONFIG", replace(instantid_resampler.CONFIG, steps=4, warmup=1))
        patch.setattr(instantid, "BATCH", 2)
        patch.setattr(instantid, "CONFIG", replace(instantid.CONFIG, steps=4, save_every=2, warmup=1))
        yield patch


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, patched: Any) -> Path:
    folder = tmp_path_factory.mktemp("build")
    # Encoding 800 images takes a minute; what is tested here does not depend on what they show
    latents = torch.randn(BLOCK, TEACHER_IMAGES, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    write_tensors(folder / "latents" / f"{training_blocks()[0].name}.safetensors", {"latents": latents.half()})
    train_instantid(folder, WEIGHTS, find_tokenizer(), 1)
    return folder


def tensors(found: InstantID) -> dict[str, torch.Tensor]:
    return {**found.control, **found.adapter["image_proj"], **found.adapter["ip_adapter"]}


def test_the_files_are_the_official_ones_and_everything_was_trained(build: Path) -> None:
    found, base = read_instantid(build / "instantid" / "miniature"), SDXLBase.open(build / "instantid" / "base")
    before = tensors(initial_instantid(base.unet, initial_resampler(CONTEXT)))
    assert tensors(found).keys() == before.keys()
    same = {name for name, tensor in tensors(found).items() if torch.equal(tensor, before[name])}
    assert not {name for name in same if "controlnet_cond_embedding" not in name}, same
    InstantIDPipeline(base, found)


def test_names_of_the_resampler_go_both_ways(build: Path) -> None:
    found = read_instantid(build / "instantid" / "miniature")
    pipeline = InstantIDPipeline(SDXLBase.open(build / "instantid" / "base"), found)
    again = official_names(pipeline.base.unet.encoder_hid_proj.image_projection_layers[0])
    assert again.keys() == found.adapter["image_proj"].keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in found.adapter["image_proj"].items())


def test_at_first_the_keypoints_have_no_effect(build: Path, patched: Any) -> None:
    images = instantid.open_face_images(build, range(BLOCK))
    base = SDXLBase.open(build / "instantid" / "base")
    pipeline = InstantIDPipeline(base, initial_instantid(base.unet, initial_resampler(CONTEXT)))
    latents = TrainingLatents(build, BLOCK, load_checkpoint(WEIGHTS)[1])
    loss = InstantIDLoss(pipeline, images, torch.zeros(BLOCK, 8, 512), latents)
    generator = torch.Generator().manual_seed(0)
    noisy, faces = torch.randn(1, *LATENT_SHAPE, generator=generator), torch.randn(1, 512, generator=generator)
    blank, white = torch.zeros(1, 3, 128, 128), torch.ones(1, 3, 128, 128)
    with torch.no_grad():
        one, two, other = (
            loss.predict(noisy, torch.tensor([500]), ["a portrait of a person"], face, picture)
            for face, picture in ((faces, blank), (faces, white), (-faces, blank))
        )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_tokens_are_larger_by_what_keys_and_values_are_smaller(build: Path) -> None:
    unet, resampler = SDXLBase.open(build / "instantid" / "base").unet, initial_resampler(CONTEXT)
    tokens = resampler(torch.randn(64, 1, 512, generator=torch.Generator().manual_seed(0)))
    assert float(tokens.std()) == pytest.approx(TOKEN_FACTOR * TOKEN_SCALE, rel=0.01)
    found = initial_instantid(unet, resampler)
    text = next(weight for name, weight in unet.named_parameters() if name.endswith("attn2.to_k.weight"))
    assert torch.allclose(next(iter(found.adapter["ip_adapter"].values())) * TOKEN_FACTOR, text)
    keys = [name for name in found.control if name.endswith("attn2.to_k.weight")]
    assert keys
    assert all(torch.allclose(found.control[name] * TOKEN_FACTOR, unet.get_parameter(name)) for name in keys)


def test_most_samples_are_noisy() -> None:
    timesteps = random_timesteps(4000, torch.Generator().manual_seed(0))
    assert int(timesteps.min()) >= 100
    assert int(timesteps.max()) < 1000
    assert 0.7 < float((timesteps >= 400).float().mean()) < 0.8


def test_faces_are_those_of_the_images(build: Path) -> None:
    images = instantid.open_face_images(build, range(BLOCK))
    drawing = draw(person(3), training_scene(3, 2))
    assert np.array_equal(images.image(3, 2), drawing.image)
    assert np.allclose(images.landmarks[3, 2], drawing.landmarks)
    faces = torch.nn.functional.normalize(reference_faces(images, 8, build / "instantid" / "faces.safetensors"), dim=-1)
    own = faces @ faces.flatten(0, 1).T
    same = torch.stack([own[row, :, 8 * row : 8 * row + 8].mean() for row in range(BLOCK)]).mean()
    assert same > 0.5 > own.mean() + 0.2


def test_an_interrupted_run_ends_as_an_uninterrupted_one(build: Path, tmp_path: Path, patched: Any) -> None:
    for name in ("images", "latents"):
        (tmp_path / name).symlink_to(build / name)
    with pytest.MonkeyPatch.context() as patch:

        def interrupted(*arguments: Any) -> None:
            train(*arguments, until=2)
            raise KeyboardInterrupt

        patch.setattr(instantid, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_instantid(tmp_path, WEIGHTS, find_tokenizer(), 1)
    one, other = (
        tensors(read_instantid(train_instantid(folder, WEIGHTS, find_tokenizer(), 1))) for folder in (build, tmp_path)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
