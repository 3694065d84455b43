"""LoRAs that the decoder made go back to their latents, whatever the encoder thinks; others go the encoder's way."""

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.inverse import MIN_EXPLAINED, explained_share, latents_of
from difflora_core.autoencoder.model import LAE


@pytest.fixture
def lae(layout) -> LAE:
    """Fitted, with a bent decoder, and an encoder that is wrong about everything that isn't a teacher."""
    torch.manual_seed(0)
    lae = LAE(layout, LAEConfig(tokens=1, width=2, chunk=8, channels=6, hidden=8))
    lae.fit(teachers(layout))
    with torch.no_grad():
        for block in lae.network.decoder_blocks:
            torch.nn.init.normal_(block.narrow.weight, std=0.02)
        lae.network.group_encoder.bias += 3.0
    return lae.requires_grad_(False)


def teachers(layout) -> torch.Tensor:
    return torch.randn(40, layout.numel, generator=torch.Generator().manual_seed(1))


def test_its_own_loras_come_back(lae):
    latents = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(latents_of(lae, lae.decode(latents)), latents, rtol=0.02, atol=0.02)


def test_the_encoder_alone_would_be_far_off(lae):
    latents = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(2))
    assert (lae.encode(lae.decode(latents)) - latents).norm() > latents.norm()


def test_refined_loras_go_to_the_nearest_latent(lae):
    latents = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(2))
    made = lae.decode(latents)
    size = (made - lae.mean).std()
    refined = made + 0.2 * size * torch.randn(made.shape, generator=torch.Generator().manual_seed(4))
    error = lae.decode(latents_of(lae, refined)) - made
    assert error.std() < 0.2 * size


def test_teachers_are_the_encoders(lae, layout):
    loras = teachers(layout)[:4]
    assert torch.equal(latents_of(lae, loras), lae.encode(loras))


def test_inside_inference_mode_as_in_comfyui(lae):
    latents = torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        found = latents_of(lae, lae.decode(latents))
    torch.testing.assert_close(found, latents, rtol=0.02, atol=0.02)


def test_one_does_not_depend_on_the_others(lae):
    loras = lae.decode(torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(latents_of(lae, loras)[1:2], latents_of(lae, loras[1:2]), rtol=0, atol=1e-5)


def test_latents_explain_the_loras_that_they_make_and_little_of_others(lae, layout):
    latents = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(2))
    made, foreign = lae.decode(latents), teachers(layout)[:2]
    torch.testing.assert_close(explained_share(lae, made, latents), torch.ones(2))
    assert (explained_share(lae, foreign, latents_of(lae, foreign)) < MIN_EXPLAINED).all()
    assert (explained_share(lae, made, latents.flip(0)) < 1.0).all(), "another one's latent"
    assert explained_share(lae, lae.mean[None], latents[:1]).item() == 0.0, "there is nothing to give back"
