"""A LoRA changes the U-Net's output alike in diffusers and through the hooks that train teachers.

That ComfyUI patches the same modules with the same result is tests/host/networks/test_same_networks.py.
"""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from difflora_core import DiffLoRA, LoRA
from miniature.base_model.config import LATENT_SHAPE
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_tokenizer
from miniature.paths import DIFFLORA_CHECKPOINT, WEIGHTS
from training.base_model.batched_loras import stacked_loras

TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> StableDiffusionXLPipeline:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("export") / "sdxl"
    export_diffusers(WEIGHTS, folder, find_tokenizer())
    return StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, add_watermarker=False)


@pytest.fixture(scope="module")
def lora() -> LoRA:
    """What DiffLoRA makes of some embeddings: of the size of a real person's LoRA, all modules differ."""
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    generator = torch.Generator().manual_seed(0)
    face = torch.randn(1, model.config.mif.face_width, generator=generator)
    image = torch.randn(1, model.config.mif.image_width, generator=generator)
    return model.lora(face, image, generator=generator)


@torch.no_grad()
def output(pipeline: StableDiffusionXLPipeline) -> Tensor:
    """The U-Net's answer (2, 16, 16, 16) to inputs that are always the same."""
    generator, unet = torch.Generator().manual_seed(1), pipeline.unet
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    pooled = torch.randn(2, pipeline.text_encoder_2.config.projection_dim, generator=generator)
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2)}
    noisy = torch.randn(2, *LATENT_SHAPE, generator=generator)
    return unet(noisy, torch.tensor([700, 30]), context, added_cond_kwargs=added).sample


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def plain(pipeline) -> Tensor:
    return output(pipeline)


@pytest.fixture(scope="module")
def change(pipeline, plain, lora) -> Tensor:
    """What the LoRA changes, by our own hooks."""
    with stacked_loras(pipeline.unet, lora.layout, lora.flat[None]):
        return output(pipeline) - plain


def test_the_lora_does_something(plain, change):
    assert float(change.norm() / plain.norm()) > 30 * TOLERANCE


def test_by_the_pipelines_loader(pipeline, plain, change, lora):
    pipeline.load_lora_weights(lora.state_dict("diffusers"))
    try:
        assert difference(output(pipeline) - plain, change) < TOLERANCE
    finally:
        pipeline.unload_lora_weights()
    assert torch.equal(output(pipeline), plain)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_by_a_file(pipeline, plain, change, lora, tmp_path, form):
    lora.save(tmp_path / "person.safetensors", form)
    pipeline.load_lora_weights(tmp_path, weight_name="person.safetensors")
    try:
        assert difference(output(pipeline) - plain, change) < TOLERANCE
    finally:
        pipeline.unload_lora_weights()


def test_fused_into_the_weights(pipeline, plain, change, lora):
    pipeline.load_lora_weights(lora.state_dict("peft"))
    try:
        pipeline.fuse_lora()
        assert difference(output(pipeline) - plain, change) < TOLERANCE
    finally:
        pipeline.unfuse_lora()
        pipeline.unload_lora_weights()
