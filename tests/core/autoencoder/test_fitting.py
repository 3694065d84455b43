"""Fitting from a store of which only columns are read: the same autoencoder, in little memory."""

from dataclasses import dataclass, field

import pytest
import torch

from difflora_core.autoencoder import principal_components as principal
from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE

CONV = LAEConfig(tokens=2, width=2, chunk=5, channels=4, hidden=8, groups=2)
TOKEN = LAEConfig(kind="token", tokens=2, width=2, channels=5, hidden=8, heads=2)
CONFIGS = {
    "conv": CONV,
    "conv, shared kernels": LAEConfig(tokens=2, width=2, chunk=5, channels=4, hidden=8, local=False, scale="delta"),
    "token": TOKEN,
    "token, groups, a map per shape": LAEConfig(
        kind="token", tokens=2, width=2, channels=5, hidden=8, heads=2, groups=2, local=False
    ),
    "linear": LAEConfig(kind="linear", tokens=2, width=2),
    "flat": LAEConfig(kind="flat", tokens=2, width=2, hidden=8),
}
LIMIT = 40 * 20  # weights in memory: twenty columns of forty LoRAs


@dataclass
class Columns:
    """LoRAs in memory that note what is asked for."""

    loras: torch.Tensor
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.loras)

    def columns(self, start: int, stop: int) -> torch.Tensor:
        self.asked.append(stop - start)
        return self.loras[:, start:stop].clone()


def fitted(layout, config, loras) -> LAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lae = LAE(layout, config)
    lae.fit(loras)
    return lae.eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@torch.no_grad()
def test_columns_give_the_same_autoencoder(layout, loras, config, monkeypatch):
    whole = fitted(layout, config, loras)
    monkeypatch.setattr(principal, "SLICE", LIMIT)
    parts = fitted(layout, config, Columns(loras))
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.factor_scale, whole.factor_scale)
    torch.testing.assert_close(parts.decode(parts.encode(loras)), whole.decode(whole.encode(loras)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("taken", [40, 10], ids=["all", "thinned out"])
@pytest.mark.parametrize("config", [CONV, TOKEN, CONFIGS["linear"]], ids=["conv", "token", "linear"])
def test_never_more_columns_than_fit(layout, loras, config, taken, monkeypatch):
    monkeypatch.setattr(principal, "SLICE", LIMIT)
    monkeypatch.setattr(principal, "MAX_LORAS_FOR_PCA", taken)
    source = Columns(loras)
    fitted(layout, config, source)
    largest_module = 2 * (6 + 4)  # a token is read as one
    assert max(source.asked) <= max(LIMIT // len(loras), largest_module)
    assert sum(source.asked) > layout.numel


def test_many_loras_are_thinned_out(layout, loras, monkeypatch):
    monkeypatch.setattr(principal, "MAX_LORAS_FOR_PCA", 20)
    every_other = LAE(layout, CONFIGS["linear"])
    every_other.fit(loras)
    expected = LAE(layout, CONFIGS["linear"])
    normalized = every_other.normalize(loras)[::2]
    expected.network.initialize_from(lambda start, stop: normalized[:, start:stop], 20)
    projections = [lae.network.basis @ lae.network.basis.T for lae in (every_other, expected)]
    torch.testing.assert_close(projections[0], projections[1], rtol=0, atol=1e-5)


def test_a_broken_lora_is_named(layout, loras):
    loras[7, 30] = float("nan")
    with pytest.raises(ValueError, match="LoRA 7 holds NaN"):
        LAE(layout, CONV).fit(Columns(loras))


def test_latents_can_be_measured_batch_by_batch(layout, loras):
    lae = fitted(layout, CONV, loras)
    expected = lae.latent_mean.clone(), lae.latent_std.clone()
    lae.latent_mean.zero_()
    lae.latent_std.fill_(9.0)
    lae.fit_latents(batch for batch in loras.split(7))
    torch.testing.assert_close((lae.latent_mean, lae.latent_std), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("config", [CONV, TOKEN, CONFIGS["linear"]], ids=["conv", "token", "linear"])
@torch.no_grad()
def test_a_factor_that_all_loras_share_does_not_count(layout, config, value):
    """As in LoRA-FA, which trains no down factor: what rounding leaves of them must not look like people."""
    generator = torch.Generator().manual_seed(1)
    loras = torch.randn(33, 2, generator=generator) @ torch.randn(2, layout.numel, generator=generator)
    shared = slice(0, layout.factor_sizes[0])
    loras[:, shared] = value * torch.rand(layout.factor_sizes[0], generator=generator)
    lae = fitted(layout, config, loras)
    error = (lae.decode(lae.encode(loras)) - loras).square().sum() / (loras - loras.mean(0)).square().sum()
    assert error < 0.01
    other = loras[:1].clone()
    other[:, shared] += 0.1
    assert lae.normalize(other)[:, shared].abs().max() < 10.0
