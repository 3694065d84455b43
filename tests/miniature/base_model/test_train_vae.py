"""The stage `vae`: what its losses cost and do not see, and a wider decoder for the same latents."""

import numpy as np
import torch
from torch.nn import functional

from miniature.base_model.train_vae import (
    FIRST_VAE,
    detail_weights,
    load_vae,
    reconstruction_loss,
    texture_loss,
    train_decoder,
    unit_loss,
)
from miniature.base_model.vae import TinyVAE
from training.engine.config import TrainConfig


def test_the_decoder_is_trained_and_read_back_and_the_encoder_stays(tmp_path):
    torch.manual_seed(0)
    narrow = TinyVAE(FIRST_VAE).eval().requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 128, 128, 3), dtype=np.uint8)
    trained = train_decoder(narrow, [images], tmp_path, TrainConfig(steps=2, learning_rate=1e-3, warmup=0, ema=0.5))
    assert all(
        torch.equal(parameter, narrow.state_dict()[f"taesd_encoder.{name}"])
        for name, parameter in trained.taesd_encoder.state_dict().items()
    )
    latents = narrow.encode_images(images[0])
    assert not torch.allclose(trained.decode(latents), narrow.decode(latents))
    assert torch.equal(load_vae(tmp_path).decode(latents), trained.decode(latents))


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


WEIGHTS = torch.ones(2, 1, 24, 24)


def test_a_perfect_reconstruction_costs_nothing():
    assert reconstruction_loss(images(), images(), WEIGHTS) == 0
    assert texture_loss(images(), images(), WEIGHTS) == 0


def test_unit_latents_cost_nothing_and_others_do():
    latents = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = (latents - latents.mean((0, 2, 3), keepdim=True)) / latents.std((0, 2, 3), keepdim=True)
    assert unit_loss(latents) < 1e-6
    assert unit_loss(2 * latents) > 0.1
    assert unit_loss(latents + 1) > 0.1


def test_a_blur_costs_more_texture_than_other_lines_as_sharp():
    blurred = functional.avg_pool2d(images(), 3, stride=1, padding=1, count_include_pad=False)
    assert texture_loss(blurred, images(), WEIGHTS) > 4 * texture_loss(images(seed=1), images(), WEIGHTS)
    assert reconstruction_loss(blurred, images(), WEIGHTS) < reconstruction_loss(images(seed=1), images(), WEIGHTS)


def test_errors_where_nothing_weighs_cost_nothing():
    weights = WEIGHTS.clone()
    weights[..., :12] = 0
    wrong = images()
    wrong[..., :8] = 0.5
    assert reconstruction_loss(wrong, images(), weights) == 0
    assert texture_loss(wrong, images(), weights) == 0


def test_pixels_weigh_more_where_there_is_detail():
    image = torch.full((1, 3, 24, 24), 0.5)
    image[..., 12, 12] = 1.0
    weights = detail_weights(image, torch.ones(1, 1, 24, 24))
    assert weights[0, 0, 12, 12] > 4
    assert weights[0, 0, 2, 2] == 1
