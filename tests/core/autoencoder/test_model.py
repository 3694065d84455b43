"""The autoencoder: ratio, scale, and a start at the quality of principal components."""

from dataclasses import replace

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.lora.layout import LoRALayout, LoRAModule

CONFIG = LAEConfig(tokens=3, width=2, chunk=8, channels=6, hidden=8)
TOKEN = LAEConfig(kind="token", tokens=2, width=3, channels=6, hidden=8, heads=2)
NETWORKS = {
    "conv": CONFIG,
    "conv, tied": replace(CONFIG, tied=True),
    "conv, shared kernels": replace(CONFIG, local=False, channels=8),
    "conv, groups": LAEConfig(tokens=2, width=4, chunk=6, channels=6, hidden=8, groups=2),
    "token": TOKEN,
    "token, tied": replace(TOKEN, tied=True),
    "token, a map per shape": replace(TOKEN, local=False, channels=12),
    "token, groups": replace(TOKEN, groups=2, width=4),
    "token of a block": replace(TOKEN, token_of="block", channels=8),
    "linear": replace(CONFIG, kind="linear"),
}
by_network = pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS.keys())


@pytest.fixture
def people(layout) -> torch.Tensor:
    """LoRAs (60, numel) with four true dimensions, a mean and a little noise."""
    g = torch.Generator().manual_seed(1)
    basis = torch.randn(4, layout.numel, generator=g)
    noise = 0.01 * torch.randn(60, layout.numel, generator=g)
    return 3.0 + torch.randn(60, 4, generator=g) @ basis + noise


@torch.no_grad()
def _error(lae: LAE, loras: torch.Tensor) -> float:
    centered = loras - loras.mean(0)
    return float((lae.decode(lae.encode(loras)) - loras).square().sum() / centered.square().sum())


@torch.no_grad()
def _bend(lae: LAE) -> None:
    """Give the residual parts, which start at zero, something to say."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in lae.network.named_parameters():
        if "narrow" in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@by_network
def test_fitting_alone_reaches_the_quality_of_principal_components(layout, people, config):
    lae = LAE(layout, config)
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


def test_latents_are_standardized(layout, people):
    lae = LAE(layout, replace(CONFIG, tokens=2))
    lae.fit(people)
    latents = lae.encode(people)
    torch.testing.assert_close(latents.mean(0), torch.zeros(2, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(2, 2), atol=1e-3, rtol=0)


@torch.no_grad()
def test_by_the_scale_delta_equal_errors_change_delta_w_equally(layout, people):
    """Whatever factor they are in, although the factors of one module are 100 times as large as the other's."""
    loras = people * torch.tensor([1.0, 10.0, 0.1, 0.1]).repeat_interleave(torch.tensor(layout.factor_sizes))
    lae = LAE(layout, replace(CONFIG, scale="delta"))
    lae.fit(loras)
    errors = torch.randn(loras.shape, generator=torch.Generator().manual_seed(2))
    changes = []
    for factor, size in enumerate(layout.factor_sizes):
        own = torch.arange(layout.numel).split(layout.factor_sizes)[factor]
        wrong = loras.clone()
        wrong[:, own] += (lae.restore(errors) - lae.mean)[:, own]
        module = layout.names[factor // 2]
        (down, up), (wrong_down, wrong_up) = layout.unflatten(loras)[module], layout.unflatten(wrong)[module]
        changes.append((wrong_up @ wrong_down - up @ down).square().sum((-2, -1)).mean() / size)
    torch.testing.assert_close(torch.stack(changes), changes[0].expand(4), rtol=0.25, atol=0)


@pytest.mark.parametrize("config", [CONFIG, TOKEN], ids=["conv", "token"])
@torch.no_grad()
def test_scale_survives(layout, people, config):
    lae = LAE(layout, config)
    lae.fit(people)
    _bend(lae)
    once, stronger = people - people.mean(0), 5.0 * (people - people.mean(0))
    zero = lae.encode(people.mean(0)[None])
    latents, five = (lae.encode(people.mean(0) + change) for change in (once, stronger))
    decoded, large = (lae.decode(one) - lae.decode(zero) for one in (latents, five))
    assert (five - zero).norm() > 3 * (latents - zero).norm()
    torch.testing.assert_close(large.norm() / decoded.norm(), torch.tensor(5.0), rtol=0.1, atol=0)


@by_network
@torch.no_grad()
def test_bfloat16_is_close(layout, loras, config):
    lae = LAE(layout, config)
    lae.fit(loras)
    _bend(lae)
    exact = lae.encode(loras)
    decoded = lae.decode(exact)
    lae.bfloat16()
    latents = lae.encode(loras.bfloat16())
    assert latents.dtype == torch.bfloat16
    assert (latents.float() - exact).norm() < 0.05 * exact.norm()
    assert (lae.decode(exact.bfloat16()).float() - decoded).norm() < 0.02 * decoded.norm()


def test_latents_of_another_shape_are_refused(layout):
    with pytest.raises(ValueError, match=r"\(batch, 3, 2\), found \(1, 2, 3\)"):
        LAE(layout, CONFIG).decode(torch.zeros(1, 2, 3))


def test_fitting_refuses_broken_loras(layout, people):
    people[7, 3] = float("inf")
    with pytest.raises(ValueError, match="LoRA 7"):
        LAE(layout, CONFIG).fit(people)


def test_names_in_a_checkpoint_of_the_first_version():
    # What shipped checkpoints hold: a renamed part would make them unreadable
    lae = LAE(LoRALayout((LoRAModule("a", 4, 4),), rank=1), LAEConfig(tokens=1, width=1, chunk=8, channels=2, blocks=1))
    block = [f"blocks.0.{part}.{kind}" for part in ("widen", "narrow") for kind in ("weight", "bias")]
    stages = [f"{stage}_{side}.{kind}" for stage in ("chunk", "group") for side in ("encoder", "decoder")
              for kind in ("weight", "bias")]  # fmt: skip
    network = [f"network.{name}" for name in [*stages, *(f"{side}_{name}" for side in ("encoder", "decoder")
               for name in block)]]  # fmt: skip
    assert set(lae.state_dict()) == {"mean", "factor_scale", "latent_mean", "latent_std", *network}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "rnn"}, "found 'rnn', expected one of conv, token, flat, linear"),
        ({"groups": 2}, "groups must divide its tokens"),
        ({"kind": "token", "heads": 3}, "heads must divide"),
        ({"kind": "linear", "variational": True}, "Only the networks conv and token can be variational"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **wrong)


def test_groups_that_do_not_fit_the_modules_are_refused(layout):
    with pytest.raises(ValueError, match="groups must divide the 2 modules of this layout, found 3"):
        LAE(layout, replace(TOKEN, tokens=3, groups=3))


@pytest.mark.parametrize("config", [NETWORKS[name] for name in NETWORKS if name != "linear"])
def test_without_loras_unit_latents_decode_to_noise_around_the_start(layout, config):
    start = torch.linspace(-1, 1, layout.numel)
    torch.manual_seed(0)
    lae = LAE(layout, config)
    lae.start_without_loras(start, 0.25, torch.Generator().manual_seed(0))
    latents = torch.randn(400, config.tokens, config.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(lae.decode(torch.zeros_like(latents[:1]))[0], start)
        loras = lae.decode(latents)
        assert (lae.encode(loras) - latents).square().mean() < 0.1  # a padded last chunk loses some
    assert 0.15 < float((loras - start).square().mean().sqrt()) < 0.35


def test_a_baseline_needs_loras(layout):
    lae = LAE(layout, NETWORKS["linear"])
    with pytest.raises(ValueError, match="'linear' is fitted to LoRAs"):
        lae.start_without_loras(torch.zeros(layout.numel), 0.1, torch.Generator())
