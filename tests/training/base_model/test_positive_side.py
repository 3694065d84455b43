"""A LoRA on the positive prompt's side alone: the same as both sides, each computed by a model of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from difflora_core.files import write_tensors
from difflora_core.lora.file_formats import lora_state_dict, storable
from difflora_core.seeds import generator_for
from miniature.personal.held_out_teachers import HeldOutTeachers
from training.base_model.sdxl import SDXLBase

PROMPTS = ["a portrait of a person, smiling, red shirt", "a portrait of a person, laughing, blue background"]
SEEDS, STEPS, SIZE = (5, 6), 4, 128


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> SDXLBase:
    return SDXLBase.open(sdxl_folder)


@pytest.fixture(scope="module")
def other(sdxl_folder: Path) -> SDXLBase:
    return SDXLBase.open(sdxl_folder)


@pytest.fixture(scope="module", params=["U-Net", "U-Net and text encoders"])
def lora(request: pytest.FixtureRequest, sdxl: SDXLBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A held-out person's teacher; with random factors for both text encoders, too."""
    tensors = lora_state_dict(HeldOutTeachers.load().teachers[0].float(), sdxl.layout(4, True), "diffusers")
    generator = torch.Generator().manual_seed(0)
    if "text" in request.param:
        for encoder in ("text_encoder", "text_encoder_2"):
            for name, module in getattr(sdxl.pipeline, encoder).named_modules():
                if name.endswith("_proj"):
                    rows, columns = module.weight.shape
                    for factor, shape in (("A", (4, columns)), ("B", (rows, 4))):
                        values = 0.3 * torch.randn(shape, generator=generator)
                        tensors[f"{encoder}.{name}.lora_{factor}.weight"] = values
    path = tmp_path_factory.mktemp("loras") / "lora.safetensors"
    write_tensors(path, storable(tensors))
    return path


def side_by_side(base: SDXLBase, with_lora: SDXLBase, negative: str, guidance: float) -> Iterator[Tensor]:
    """Images by hand: each step's negative prediction of one model, the positive of another."""
    for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
        scheduler = base.pipeline.scheduler
        scheduler.set_timesteps(STEPS)
        shape = (1, *base.latent_shape(SIZE))
        latents = torch.randn(shape, generator=generator_for(seed, "generate", 0)) * scheduler.init_noise_sigma
        positive, without = with_lora.encode_text([prompt]), base.encode_text([negative])
        for timestep in scheduler.timesteps:
            noisy = scheduler.scale_model_input(latents, timestep)
            away = base.predict(noisy, timestep[None], without, SIZE)
            toward = with_lora.predict(noisy, timestep[None], positive, SIZE)
            latents = scheduler.step(away + guidance * (toward - away), timestep, latents).prev_sample
        yield base.decode(latents)


@torch.no_grad()
@pytest.mark.parametrize("negative", ["", "a portrait of a person, sad, green shirt"])
def test_equals_two_sides_computed_apart(sdxl: SDXLBase, other: SDXLBase, lora: Path, negative: str) -> None:
    def generate() -> Tensor:
        return sdxl.generate(PROMPTS, SIZE, STEPS, 3.0, SEEDS, negative=negative)

    with other.loaded_lora_file(lora):
        expected = torch.cat(list(side_by_side(sdxl, other, negative, 3.0)))
    plain = generate()
    with sdxl.loaded_lora_file(lora):
        both = generate()
        with sdxl.lora_on_positive_side():
            found = generate()
        assert torch.equal(generate(), both), "the side stayed behind"
    assert torch.equal(generate(), plain), "the LoRA stayed behind"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (found - both).abs().mean() > 0.01
    assert (found - plain).abs().mean() > 0.01


def test_without_guidance_both_sides_are_one(sdxl: SDXLBase, lora: Path) -> None:
    with sdxl.loaded_lora_file(lora):
        both = sdxl.generate(PROMPTS, SIZE, STEPS, 1.0, SEEDS)
        with sdxl.lora_on_positive_side():
            assert torch.equal(sdxl.generate(PROMPTS, SIZE, STEPS, 1.0, SEEDS), both)
