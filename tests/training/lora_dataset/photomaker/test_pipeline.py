"""PhotoMaker's pipeline on the miniature's SDXL folder, with an identity encoder and a LoRA of random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from difflora_core.lora.file_formats import save_lora
from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import LATENT_SHAPE
from miniature.base_model.model import Tokenizer, noise_scheduler
from miniature.comfyui.host import find_tokenizer
from miniature.encoders.photomaker import CaptionEncoder
from miniature.paths import WEIGHTS
from training.base_model.batched_loras import stacked_loras
from training.base_model.sdxl import SDXLBase
from training.lora_dataset.photomaker.photomaker_file import read_photomaker
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline, Sampling

TOKENIZER = find_tokenizer()
PROMPT = "a portrait of a person, smiling, red shirt, white background"


OTHER_PROMPT = "a portrait of a person, blue shirt, pink background"


SAMPLING = Sampling(size=128, steps=4, guidance_scale=2.0, style_strength=0)


def identities(count: int, seed: int = 0) -> Tensor:
    """Random identity embeddings (count, 96)."""
    return torch.randn(count, 96, generator=torch.Generator().manual_seed(seed))


def generate_one(photomaker: PhotoMakerPipeline, identity: Tensor, sampling: Sampling, seed: int = 7) -> np.ndarray:
    """One image of PROMPT: int16, so that differences don't wrap round."""
    return np.asarray(photomaker.generate([PROMPT], "", "person", identity, [seed], sampling)[0]).astype(np.int16)


def test_seeds_decide_and_the_batch_does_not(photomaker: PhotoMakerPipeline) -> None:
    both = photomaker.generate([OTHER_PROMPT, PROMPT], "", "person", identities(2), [1, 7], SAMPLING)
    alone = generate_one(photomaker, identities(2), SAMPLING)
    assert np.abs(np.asarray(both[1]) - alone).max() <= 2
    assert np.abs(generate_one(photomaker, identities(2), SAMPLING, seed=8) - alone).max() > 50


def test_identity_changes_the_image(photomaker: PhotoMakerPipeline) -> None:
    first, second = (generate_one(photomaker, identities(2, seed), SAMPLING) for seed in (0, 1))
    assert np.abs(first - second).max() > 20


def test_full_style_strength_leaves_the_identity_out(photomaker: PhotoMakerPipeline) -> None:
    late = replace(SAMPLING, style_strength=100)
    first, second = (generate_one(photomaker, identities(2, seed), late) for seed in (0, 1))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("style_strength", "guidance_scale"), [(0, 2.0), (50, 2.0), (99, 2.0), (50, 1.0), (0, 1.0)])
def test_pipeline_agrees_with_a_plain_loop(
    photomaker: PhotoMakerPipeline,
    photomaker_lora: tuple[LoRALayout, Tensor],
    style_strength: int,
    guidance_scale: float,
) -> None:
    sampling, identity = replace(SAMPLING, style_strength=style_strength, guidance_scale=guidance_scale), identities(3)
    generated = generate_one(photomaker, identity, sampling)
    assert np.abs(generated - plain_loop(photomaker, photomaker_lora, identity, sampling)).max() <= 2


@torch.no_grad()
def plain_loop(
    photomaker: PhotoMakerPipeline, photomaker_lora: tuple[LoRALayout, Tensor], identity: Tensor, sampling: Sampling
) -> np.ndarray:
    """What the pipeline should generate, from the single-file checkpoint: own U-Net, LoRA as branches, DDIM by hand."""
    from diffusers import DDIMScheduler

    model, vae = load_checkpoint(WEIGHTS)
    texts = CaptionEncoder(model, TOKENIZER)
    plain, _ = texts([PROMPT], 1)
    fused, positions = texts([PROMPT], len(identity))
    fused.context = photomaker.encoder.fuse(fused.context, positions, identity[None])
    empty = model.encode(Tokenizer(TOKENIZER)([""]))
    scheduler = DDIMScheduler.from_config(noise_scheduler().config)
    scheduler.set_timesteps(sampling.steps)
    latents = torch.randn(1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(7))
    with stacked_loras(model.unet, photomaker_lora[0], photomaker_lora[1][None]):
        for step, timestep in enumerate(scheduler.timesteps):
            text = plain if step < sampling.steps * sampling.style_strength // 100 else fused
            without = model.predict(latents, timestep[None], empty)
            v = without + sampling.guidance_scale * (model.predict(latents, timestep[None], text) - without)
            latents = scheduler.step(v, timestep, latents).prev_sample
    image = vae.decode(latents).clamp(0, 1)[0].permute(1, 2, 0)
    return image.mul(255).round().numpy().astype(np.int16)


def test_pooled_text_changes_when_the_identity_comes_in(photomaker: PhotoMakerPipeline) -> None:
    seen = []

    def note(_: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen.append(keywords["added_cond_kwargs"]["text_embeds"])

    handle = photomaker.pipeline.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        generate_one(photomaker, identities(3), replace(SAMPLING, style_strength=50))
    finally:
        handle.remove()
    model, _ = load_checkpoint(WEIGHTS)
    texts = CaptionEncoder(model, TOKENIZER)
    without = model.encode(Tokenizer(TOKENIZER)([""])).pooled
    for pooled, times in zip(seen, (1, 1, 3, 3), strict=True):
        torch.testing.assert_close(pooled, torch.cat([without, texts([PROMPT], times)[0].pooled]))


def test_half_precision_makes_nearly_the_same_image(
    photomaker: PhotoMakerPipeline, sdxl_folder: Path, photomaker_file: Path
) -> None:
    half = PhotoMakerPipeline(SDXLBase.open(sdxl_folder, "cpu", torch.bfloat16), read_photomaker(photomaker_file))
    difference = generate_one(half, identities(2), SAMPLING) - generate_one(photomaker, identities(2), SAMPLING)
    assert np.abs(difference).mean() < 8


def test_lcm_lora_is_applied(sdxl_folder: Path, photomaker_file: Path, tmp_path: Path) -> None:
    layout = LoRALayout.from_config(base_config.UNET, 4)
    for name, strength in (("zero", 0.0), ("strong", 0.3)):
        flat = strength * torch.randn(layout.numel, generator=torch.Generator().manual_seed(2))
        save_lora(tmp_path / f"{name}.safetensors", flat, layout, format="peft")
    images = []
    for name in ("zero", "strong"):
        made = PhotoMakerPipeline.open(sdxl_folder, photomaker_file, lcm_lora=tmp_path / f"{name}.safetensors")
        assert type(made.pipeline.scheduler).__name__ == "LCMScheduler"
        images.append(generate_one(made, identities(2), replace(SAMPLING, guidance_scale=1.0)))
    assert np.abs(images[0] - images[1]).max() > 20


def test_lcm_lora_that_is_no_safetensors_file_is_refused(
    sdxl_folder: Path, photomaker_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "lcm.bin").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"no LCM-LoRA .*lcm.bin; expected a safetensors file"):
        PhotoMakerPipeline.open(sdxl_folder, photomaker_file, lcm_lora=tmp_path / "lcm.bin")


def test_broken_weights_are_an_error_not_a_black_image(sdxl_folder: Path, photomaker_file: Path) -> None:
    sdxl = SDXLBase.open(sdxl_folder)
    sdxl.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="is not finite"):
        generate_one(PhotoMakerPipeline(sdxl, read_photomaker(photomaker_file)), identities(1), SAMPLING)


def test_encoder_for_other_texts_is_refused(sdxl_folder: Path, photomaker_file: Path) -> None:
    sdxl = SDXLBase.open(sdxl_folder)
    pipe = sdxl.pipeline
    pipe.text_encoder, pipe.text_encoder_2 = pipe.text_encoder_2, pipe.text_encoder
    with pytest.raises(ValueError, match=r"made for text encoders \(32, 64\) wide, the base model's are \(64, 32\)"):
        PhotoMakerPipeline(sdxl, read_photomaker(photomaker_file))


@pytest.mark.parametrize("values", [{"style_strength": 101}, {"style_strength": -1}, {"size": 100}, {"steps": 0}])
def test_sampling_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="found"):
        Sampling(**values)
