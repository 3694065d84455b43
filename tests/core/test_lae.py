"""The autoencoder: ratio, scale, and a start at the quality of principal components."""

from dataclasses import replace

import pytest
import torch

from difflora_core.lae import LAE, LAEConfig

CONFIG = LAEConfig(tokens=3, width=2, chunk=8, channels=6, hidden=8)


@pytest.fixture
def people(layout) -> torch.Tensor:
    """LoRAs (60, numel) with four true dimensions, a mean and a little noise."""
    g = torch.Generator().manual_seed(1)
    basis = torch.randn(4, layout.numel, generator=g)
    noise = 0.01 * torch.randn(60, layout.numel, generator=g)
    return 3.0 + torch.randn(60, 4, generator=g) @ basis + noise


@torch.no_grad()
def _error(lae: LAE, loras: torch.Tensor) -> float:
    centred = loras - loras.mean(0)
    return float((lae.decode(lae.encode(loras)) - loras).square().sum() / centred.square().sum())


@pytest.mark.parametrize("change", [{"kind": "conv"}, {"kind": "conv", "tied": True}, {"kind": "linear"}])
def test_fitting_alone_reaches_the_quality_of_principal_components(layout, people, change):
    lae = LAE(layout, replace(CONFIG, **change))
    lae.fit(people[:40])
    assert _error(lae, people[40:]) < 1e-3


def test_tied_has_about_half_the_parameters(layout):
    free, tied = (
        sum(p.numel() for p in LAE(layout, replace(CONFIG, tied=tied)).parameters()) for tied in (False, True)
    )
    residual = sum(
        p.numel() for name, p in LAE(layout, CONFIG).named_parameters() if "blocks" in name or "bias" in name
    )
    assert 2 * (tied - residual) == pytest.approx(free - residual, rel=0.05)


def test_shape_and_ratio(layout, people):
    lae = LAE(layout, CONFIG)
    lae.fit(people)
    assert lae.encode(people).shape == (60, 3, 2)
    assert lae.compression_ratio == layout.numel / 6


def test_latents_are_standardised(layout, people):
    lae = LAE(layout, replace(CONFIG, tokens=2))
    lae.fit(people)
    latents = lae.encode(people)
    torch.testing.assert_close(latents.mean(0), torch.zeros(2, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(2, 2), atol=1e-3, rtol=0)


def test_scale_survives(layout, people):
    lae = LAE(layout, CONFIG)
    lae.fit(people)
    mean = people.mean(0)
    stronger = mean + 2.0 * (people - mean)
    decoded = lae.decode(lae.encode(stronger)) - mean
    torch.testing.assert_close(decoded.norm(), (stronger - mean).norm(), rtol=0.01, atol=0)


def test_latents_of_another_shape_are_refused(layout):
    with pytest.raises(ValueError, match=r"\(batch, 3, 2\), found \(1, 2, 3\)"):
        LAE(layout, CONFIG).decode(torch.zeros(1, 2, 3))


def test_fitting_refuses_broken_loras(layout, people):
    people[7, 3] = float("inf")
    with pytest.raises(ValueError, match="LoRA 7"):
        LAE(layout, CONFIG).fit(people)


def test_real_sdxl_width_keeps_the_ratio():
    config = LAEConfig(tokens=160, width=121)
    assert 5_806_080 / (config.tokens * config.width) > 290
