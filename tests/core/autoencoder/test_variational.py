"""The variational option: a variance beside each latent, noise only where training asks for it."""

from dataclasses import replace

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.autoencoder.staged import FIRST_LOG_VARIANCE

CONV = LAEConfig(tokens=2, width=2, chunk=8, channels=6, hidden=8, groups=2, variational=True)
TOKEN = LAEConfig(kind="token", tokens=2, width=2, channels=6, hidden=8, heads=2, variational=True)
both = pytest.mark.parametrize("config", [CONV, TOKEN], ids=["conv", "token"])


def fitted(layout, config, loras) -> LAE:
    lae = LAE(layout, config)
    lae.fit(loras)
    return lae.eval().requires_grad_(False)


@both
def test_the_posterior_begins_narrow_and_is_standardized(layout, loras, config):
    lae = fitted(layout, config, loras)
    mean, log_variance = lae.posterior(lae.normalize(loras))
    assert log_variance is not None
    torch.testing.assert_close(log_variance, torch.full((40, 2, 2), FIRST_LOG_VARIANCE), rtol=1e-4, atol=0)
    torch.testing.assert_close(mean.std(0), torch.ones(2, 2), rtol=1e-3, atol=0)


@both
def test_encode_is_the_mean(layout, loras, config):
    lae = fitted(layout, config, loras)
    mean, _ = lae.posterior(lae.normalize(loras))
    assert torch.equal(lae.encode(loras), mean)


@both
def test_noise_only_with_a_generator(layout, loras, config):
    lae = fitted(layout, config, loras)
    normalized = lae.normalize(loras)
    plain, _, _ = lae(normalized)
    torch.testing.assert_close(lae.restore(plain), lae.decode(lae.encode(loras)))
    noisy = [lae(normalized, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert not torch.equal(noisy[0], plain)


@both
def test_the_noise_has_the_posterior_s_deviation(layout, loras, config):
    lae = fitted(layout, config, loras)
    many = lae.normalize(loras[:1]).expand(4000, -1)
    noisy, _, _ = lae(many, torch.Generator().manual_seed(0))
    latents, _ = lae.posterior(noisy)  # exact: the decoder is the encoder's inverse on its own span
    expected = torch.full((2, 2), FIRST_LOG_VARIANCE).mul(0.5).exp()
    torch.testing.assert_close(latents.std(0), expected, rtol=0.05, atol=0)


def test_new_statistics_keep_the_variance_in_raw_latents(layout, loras):
    lae = fitted(layout, CONV, loras)
    normalized = lae.normalize(loras)
    before = lae.posterior(normalized)[1] + 2 * lae.latent_std.log()
    lae.latent_std *= 3
    torch.testing.assert_close(lae.posterior(normalized)[1] + 2 * lae.latent_std.log(), before)


def test_without_the_option_there_is_no_variance(layout, loras):
    lae = fitted(layout, replace(CONV, variational=False), loras)
    normalized = lae.normalize(loras)
    assert lae.posterior(normalized)[1] is None
    predicted, _, log_variance = lae(normalized, torch.Generator().manual_seed(0))
    assert log_variance is None
    assert torch.equal(predicted, lae(normalized)[0])
