"""The autoencoder: what is exported computes what was trained."""

import pytest
import torch

from miniature.base_model.vae import TinyVAE, VAEConfig, export_taesd, import_taesd, reconstruction_loss


@torch.no_grad()
def test_the_64_channel_export_computes_the_same():
    torch.manual_seed(0)
    small = TinyVAE(VAEConfig(widths=(4, 6, 8, 10)))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    full = TinyVAE(VAEConfig((64,) * 4, (1, 3, 3, 3), (1, 3, 3, 3)))
    full.load_state_dict(export_taesd(small))
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(full.encode(pixels), small.encode(pixels), rtol=1e-4, atol=1e-5)
    latents = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(full.decode(latents), small.decode(latents), rtol=1e-4, atol=1e-5)


def test_what_was_exported_is_read_back_as_it_was():
    small = TinyVAE(VAEConfig(widths=(4, 6, 8, 10)))
    read = import_taesd(export_taesd(small), TinyVAE(VAEConfig(widths=(4, 6, 8, 10))))
    assert all(torch.equal(read[name], tensor) for name, tensor in small.state_dict().items())


def test_export_has_taesds_names_and_shapes():
    state = export_taesd(TinyVAE(VAEConfig(latent_channels=4)))
    assert state["taesd_decoder.1.weight"].shape == (64, 4, 3, 3)
    assert state["taesd_encoder.14.weight"].shape == (4, 64, 3, 3)
    assert sum(tensor.numel() for tensor in state.values()) == pytest.approx(2.45e6, rel=0.01)


def test_perfect_reconstruction_costs_only_the_latents_size():
    torch.manual_seed(0)
    vae = TinyVAE(VAEConfig(widths=(16, 16, 16, 16)))
    vae.decode = lambda latents: pixels  # type: ignore[method-assign]
    pixels = torch.rand(2, 3, 16, 16)
    loss, mse = reconstruction_loss(vae, pixels, torch.ones(2, 1, 16, 16), torch.Generator().manual_seed(0))
    latents = vae.encode(pixels)
    unit = (latents.std((0, 2, 3)).log().square() + latents.mean((0, 2, 3)).square()).mean()
    assert mse == 0
    torch.testing.assert_close(loss, 0.01 * unit, rtol=1e-3, atol=1e-6)
