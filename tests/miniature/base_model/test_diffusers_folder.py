"""The miniature as a diffusers folder computes what the shipped checkpoint computes."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import LATENT_SHAPE
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.base_model.model import Tokenizer
from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import Scene

CAPTIONS = ["a portrait of a person, smiling, red shirt, blue background", ""]
TOKENIZER = find_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_diffusers(WEIGHTS, tmp_path_factory.mktemp("export") / "sdxl", TOKENIZER)


@pytest.fixture(scope="module")
def pipeline(folder):
    return StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, add_watermarker=False)


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint(WEIGHTS)


def test_text_embeddings(pipeline, shipped):
    context, _, pooled, _ = pipeline.encode_prompt(CAPTIONS, do_classifier_free_guidance=False)
    expected = shipped[0].encode(Tokenizer(TOKENIZER)(CAPTIONS))
    torch.testing.assert_close(context, expected.context, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pooled, expected.pooled, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_unet(pipeline, shipped):
    condition = shipped[0].encode(Tokenizer(TOKENIZER)(CAPTIONS))
    noisy, times = torch.randn(2, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([30, 999])
    ids = torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2)
    added = {"text_embeds": condition.pooled, "time_ids": ids}
    output = pipeline.unet(noisy, times, condition.context, added_cond_kwargs=added).sample
    torch.testing.assert_close(output, shipped[0].predict(noisy, times, condition), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_autoencoder(pipeline, shipped):
    pixels = torch.from_numpy(draw(person(0), Scene()).image.copy()).permute(2, 0, 1)[None].float() / 255
    latents = pipeline.vae.encode(2 * pixels - 1).latents
    torch.testing.assert_close(latents, shipped[1].encode(pixels), atol=1e-4, rtol=1e-4)
    image = (pipeline.vae.decode(latents).sample + 1) / 2
    torch.testing.assert_close(image, shipped[1].decode(latents), atol=1e-4, rtol=1e-4)


def test_noise_schedule(pipeline):
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert float(pipeline.scheduler.alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-6)


def test_pipeline_follows_the_prompt(pipeline):
    prompts = [f"a portrait of a person, white shirt, {color} background" for color in ("blue", "yellow")]
    images = pipeline(
        prompts, num_inference_steps=6, guidance_scale=3.0, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    assert images.shape == (2, 128, 128, 3)
    corner = images[:, :12, :12].mean((1, 2))  # background: blue over red in the first, the reverse in the second
    assert corner[0, 2] > corner[0, 0] + 0.1
    assert corner[1, 0] > corner[1, 2] + 0.1


def test_only_safetensors(folder):
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert {path.parent.name for path in folder.rglob("*.safetensors")} == {
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
    }


def test_foreign_folder_is_kept(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear diary")
    with pytest.raises(FileExistsError, match="no diffusers model"):
        export_diffusers(WEIGHTS, tmp_path, TOKENIZER)
    assert (tmp_path / "letter.txt").exists()


def test_no_checkpoint(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="build base"):
        export_diffusers(tmp_path, tmp_path / "sdxl", TOKENIZER)
    assert not list(tmp_path.iterdir())
