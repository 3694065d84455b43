"""SDXL as a diffusers folder: what is read, what is refused, and LoRAs through diffusers' own loader."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from difflora_core.files import read_tensors, write_tensors
from miniature.personal.held_out_teachers import HeldOutTeachers
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import caption, random_scene
from training.base_model.diffusion_loss import DiffusionLoss, predictor
from training.base_model.held_out_loss import mean_loss
from training.base_model.person_images import PersonImages
from training.base_model.sdxl import SDXLBase


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> SDXLBase:
    return SDXLBase.open(sdxl_folder)


def test_a_teacher_lowers_the_loss_on_its_person_and_a_scrambled_one_does_not(sdxl: SDXLBase) -> None:
    """A shipped teacher of a held-out person, through a PEFT file and diffusers' loader; scenes new to it."""
    held_out = HeldOutTeachers.load()
    who, layout = held_out.people[0], sdxl.layout(4, True)
    scenes = [random_scene(np.random.default_rng([5, number])) for number in range(8)]
    pixels = np.stack([draw(person(who), scene).image for scene in scenes])
    latents = sdxl.encode_images(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0)
    texts = sdxl.encode_text([caption(scene) for scene in scenes])
    images = PersonImages.complete("held out", latents, torch.arange(len(scenes)))
    loss = DiffusionLoss(predictor(sdxl, texts, size=128), sdxl.scheduler(), [images], 16)

    def mean_with(lora: torch.Tensor | None) -> float:
        with nullcontext() if lora is None else sdxl.loaded_lora(lora, layout):
            return float(mean_loss(loss))

    teacher = held_out.teachers[0].float()
    scrambled = teacher[torch.randperm(layout.numel, generator=torch.Generator().manual_seed(0))]
    assert mean_with(teacher) < 0.9 * mean_with(None) < mean_with(scrambled)


def test_the_unet_alone_goes_to_the_device(sdxl_folder: Path) -> None:
    sdxl = SDXLBase.open(sdxl_folder, "meta", unet_alone=True)
    assert {network.device.type for network in (sdxl.unet, sdxl.pipeline.vae)} == {"meta", "cpu"}
    assert {network.device.type for network in (sdxl.pipeline.text_encoder, sdxl.pipeline.text_encoder_2)} == {"cpu"}


def test_full_precision_is_read_where_both_are_there(sdxl_folder: Path, sdxl: SDXLBase, tmp_path: Path) -> None:
    """As in the published folder, whose U-Net alone may have a second, rounded file."""
    shutil.copytree(sdxl_folder, tmp_path / "base")
    weights = next((tmp_path / "base" / "unet").glob("*.safetensors"))
    tensors, metadata = read_tensors(weights)
    rounded = {name: tensor.half() for name, tensor in tensors.items()}
    write_tensors(weights.with_name(weights.name.replace(".safetensors", ".fp16.safetensors")), rounded, metadata)
    again = SDXLBase.open(tmp_path / "base")
    for name, tensor in sdxl.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], tensor), name


def test_generation_in_bfloat16_with_a_lora(sdxl_folder: Path) -> None:
    half = SDXLBase.open(sdxl_folder, dtype=torch.bfloat16)
    held_out = HeldOutTeachers.load()
    captions = ["a portrait of a person, smiling"]

    def generate(lora: torch.Tensor | None) -> torch.Tensor:
        with nullcontext() if lora is None else half.loaded_lora(lora, half.layout(4, True)):
            return half.generate(captions, 128, 4, 3.0, seed=1)

    plain, own = generate(None), generate(held_out.teachers[0].float())
    assert own.isfinite().all()
    assert (own - plain).abs().mean() > 0.01
    assert torch.equal(generate(None), plain), "the LoRA stayed behind"


def test_seeds_of_images_and_other_samplers(sdxl: SDXLBase) -> None:
    captions = ["a portrait of a person, smiling"] * 3
    first, other, again = sdxl.generate(captions, 128, 2, 3.0, seed=[5, 6, 5], batch=2)
    assert torch.allclose(first, again, atol=1e-4)
    assert not torch.allclose(first, other, atol=1e-2)
    assert torch.allclose(sdxl.generate(captions[:1], 128, 2, 3.0, seed=[6])[0], other, atol=1e-4)
    assert not torch.allclose(sdxl.generate(captions[:1], 128, 2, 3.0, [6], negative="sad")[0], other, atol=1e-3)
    before = sdxl.pipeline.scheduler
    try:
        own = sdxl.generate(captions[:1], 128, 5, 3.0, seed=6)
        sdxl.use_sampler("DPMSolverMultistepScheduler")
        assert not torch.allclose(sdxl.generate(captions[:1], 128, 5, 3.0, seed=6), own, atol=1e-3)
        assert sdxl.scheduler().config.prediction_type == before.config.prediction_type
        with pytest.raises(ValueError, match=r"no sampler 'Euler'; expected one of .*EulerDiscreteScheduler"):
            sdxl.use_sampler("Euler")
    finally:
        sdxl.pipeline.scheduler = before


def test_images_of_a_batch_are_decoded_one_by_one(sdxl: SDXLBase, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, counts = sdxl.decode, []
    monkeypatch.setattr(sdxl, "decode", lambda latents: counts.append(len(latents)) or decode(latents))
    assert sdxl.generate(["a person"] * 3, 128, 1, 3.0, seed=1, batch=2).shape == (3, 3, 128, 128)
    assert counts == [1, 1, 1]


def test_lora_files_of_any_program(sdxl: SDXLBase, tmp_path: Path) -> None:
    held_out, captions = HeldOutTeachers.load(), ["a portrait of a person, smiling"]
    kohya = tmp_path / "kohya.safetensors"
    held_out.write(held_out.people[0], kohya)
    with sdxl.loaded_lora(held_out.teachers[0].float(), sdxl.layout(4, True)):
        expected = sdxl.generate(captions, 128, 2, 3.0, seed=1)
    with sdxl.loaded_lora_file(kohya):
        assert torch.equal(sdxl.generate(captions, 128, 2, 3.0, seed=1), expected)
    tensors, metadata = read_tensors(kohya)
    foreign = {name.replace("lora_unet_", "lora_unet_other_"): tensor for name, tensor in tensors.items()}
    write_tensors(tmp_path / "foreign.safetensors", foreign, metadata)
    with (
        pytest.raises(ValueError, match=r"foreign\.safetensors: diffusers"),
        sdxl.loaded_lora_file(tmp_path / "foreign.safetensors"),
    ):
        pass
    assert not torch.equal(sdxl.generate(captions, 128, 2, 3.0, seed=1), expected), "the LoRA stayed behind"


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [("StableDiffusionPipeline", "is not SDXL: model_index.json names StableDiffusionPipeline"), (None, "no pipeline")],
)
def test_another_base_model_is_refused(tmp_path: Path, pipeline: str | None, message: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline} if pipeline else {}))
    with pytest.raises(ValueError, match=message):
        SDXLBase.open(tmp_path)
