"""The autoencoder: what is exported computes what was trained, and so does a wider decoder before it is trained."""

import pytest
import torch

from miniature.base_model.vae import TinyVAE, VAEConfig, copy_into_wider, export_taesd, import_taesd

WIDTHS = (4, 6, 8, 10)


def random_vae(config: VAEConfig) -> TinyVAE:
    vae = TinyVAE(config)
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vae


@torch.no_grad()
def test_the_64_channel_export_computes_the_same():
    torch.manual_seed(0)
    small = random_vae(VAEConfig(WIDTHS, decoder_widths=(5, 6, 8, 12)))
    full = TinyVAE(VAEConfig((64,) * 4, (1, 3, 3, 3), (64,) * 4, (1, 3, 3, 3)))
    full.load_state_dict(export_taesd(small))
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(full.encode(pixels), small.encode(pixels), rtol=1e-4, atol=1e-5)
    latents = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(full.decode(latents), small.decode(latents), rtol=1e-4, atol=1e-5)


def test_what_was_exported_is_read_back_as_it_was():
    config = VAEConfig(WIDTHS, decoder_widths=(5, 6, 8, 12))
    small = TinyVAE(config)
    read = import_taesd(export_taesd(small), TinyVAE(config))
    assert all(torch.equal(read[name], tensor) for name, tensor in small.state_dict().items())


def test_export_has_taesds_names_and_shapes():
    state = export_taesd(TinyVAE(VAEConfig(latent_channels=4)))
    assert state["taesd_decoder.1.weight"].shape == (64, 4, 3, 3)
    assert state["taesd_encoder.14.weight"].shape == (4, 64, 3, 3)
    assert sum(tensor.numel() for tensor in state.values()) == pytest.approx(2.45e6, rel=0.01)


@torch.no_grad()
def test_a_wider_decoder_starts_as_the_narrow_one():
    torch.manual_seed(0)
    narrow = random_vae(VAEConfig(WIDTHS, decoder_widths=WIDTHS, decoder_blocks=(1, 2, 2, 3)))
    wide = TinyVAE(VAEConfig(WIDTHS, decoder_widths=(6, 9, 10, 12), decoder_blocks=(1, 3, 3, 3)))
    copy_into_wider(narrow, wide)
    pixels, latents = torch.rand(2, 3, 32, 32), torch.randn(2, 16, 4, 4)
    assert torch.equal(wide.encode(pixels), narrow.encode(pixels))
    torch.testing.assert_close(wide.decode(latents), narrow.decode(latents), rtol=1e-4, atol=1e-5)


def test_every_weight_of_a_wider_decoder_can_learn():
    torch.manual_seed(0)
    narrow = random_vae(VAEConfig(WIDTHS, decoder_widths=WIDTHS, decoder_blocks=(1, 2, 2, 3)))
    wide = TinyVAE(VAEConfig(WIDTHS, decoder_widths=(6, 9, 10, 12), decoder_blocks=(1, 3, 3, 3)))
    copy_into_wider(narrow, wide)
    optimizer = torch.optim.SGD(wide.taesd_decoder.parameters(), 1e-3)
    moved = {name: False for name, _ in wide.taesd_decoder.named_parameters()}
    for _ in range(4):  # a convolution behind one of zeros gets its first gradient when that one has moved
        optimizer.zero_grad()
        wide.decode(torch.randn(4, 16, 4, 4)).square().mean().backward()
        optimizer.step()
        for name, parameter in wide.taesd_decoder.named_parameters():
            moved[name] |= parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
    assert all(moved.values()), [name for name, any_gradient in moved.items() if not any_gradient]
