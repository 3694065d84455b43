"""The identity encoder: sizes, the vision tower, fusing."""

import pytest
import torch

from miniature.encoders.clip_vision import load_image_encoder
from miniature.encoders.photomaker import initial_encoder
from miniature.paths import WEIGHTS
from training.lora_dataset.photomaker.identity_encoder import IdEncoder, encoder_sizes


@pytest.fixture(scope="module")
def encoder() -> IdEncoder:
    return initial_encoder(WEIGHTS).eval().requires_grad_(False)


def test_sizes_of_the_official_file() -> None:
    # CLIP ViT-L/14 and SDXL's text encoders; only shapes that the official file has decide
    shapes = {
        "vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": (257, 1024),
        "visual_projection.weight": (768, 1024),
        "visual_projection_2.weight": (1280, 1024),
        **{f"vision_model.encoder.layers.{i}.mlp.fc1.weight": (4096, 1024) for i in range(24)},
    }
    with torch.device("meta"):
        module = IdEncoder(*encoder_sizes({name: torch.empty(shape) for name, shape in shapes.items()}))
    state = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert {name: state[name] for name in shapes} == shapes
    assert module.size == 224
    assert module.vision_model.config.num_attention_heads == 16
    assert state["fuse_module.mlp1.fc1.weight"] == (2048, 4096)
    assert state["fuse_module.mlp2.fc2.weight"] == (2048, 2048)
    assert state["fuse_module.layer_norm.weight"] == (2048,)


def test_tower_agrees_with_transformers(encoder: IdEncoder) -> None:
    model, processor = load_image_encoder()
    pixels = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    expected = processor(images=list(pixels.numpy()), do_rescale=False, do_resize=False, return_tensors="pt")
    mine = torch.stack([encoder.preprocess(image) for image in pixels])
    torch.testing.assert_close(mine, expected["pixel_values"], rtol=0, atol=1e-5)
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=mine).pooler_output
    joined = torch.cat([encoder.visual_projection.weight, encoder.visual_projection_2.weight])
    torch.testing.assert_close(encoder.embed(mine), pooled @ joined.T, rtol=1e-4, atol=1e-4)


def test_fusing_changes_the_class_word_only(encoder: IdEncoder) -> None:
    generator = torch.Generator().manual_seed(3)
    context, identity = torch.randn(2, 77, 96, generator=generator), torch.randn(2, 3, 96, generator=generator)
    positions = torch.tensor([[5, 6, 7], [8, 9, 10]])
    fused = encoder.fuse(context, positions, identity)
    changed = (fused != context).any(-1)
    assert changed.nonzero().tolist() == [[0, 5], [0, 6], [0, 7], [1, 8], [1, 9], [1, 10]]


def test_each_reference_goes_to_a_position_of_its_own(encoder: IdEncoder) -> None:
    generator = torch.Generator().manual_seed(4)
    context, identity = torch.randn(1, 1, 96, generator=generator), torch.randn(1, 2, 96, generator=generator)
    positions = torch.tensor([[5, 6]])
    fused = encoder.fuse(context.expand(1, 77, 96), positions, identity)
    swapped = encoder.fuse(context.expand(1, 77, 96), positions, identity.flip(1))
    torch.testing.assert_close(fused[0, 5], swapped[0, 6])
    assert not torch.allclose(fused[0, 5], fused[0, 6])


def test_word_is_kept_by_the_residuals(encoder: IdEncoder) -> None:
    module = IdEncoder.from_state(encoder.state_dict()).fuse_module
    for mlp in (module.mlp1, module.mlp2):
        mlp.fc2.weight.zero_()
        mlp.fc2.bias.zero_()
    word, identity = torch.randn(2, 4, 96, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(module(word, identity), module.layer_norm(word))
