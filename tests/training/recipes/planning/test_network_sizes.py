"""Counts without torch are those of the networks."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from difflora_core.autoencoder.model import network_for
from difflora_core.denoiser.config import CONFIGURATIONS, MIFConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.lora.base_model import SDXL
from difflora_core.lora.layout import LoRALayout
from miniature.base_model.config import UNET
from training.autoencoder.settings import LAESettings
from training.engine.settings import read_settings
from training.recipes.planning.network_sizes import SDXL_UNET, denoiser_size, lae_size, lora_size
from training.recipes.recipe import FOLDER

LAES = ["sdxl-24gb/2_train_lae.yaml", "sdxl-24gb/variants/2_train_lae_token.yaml"]


@pytest.mark.parametrize("feed_forward", [False, True])
@pytest.mark.parametrize("unet", [None, UNET])
def test_a_lora(unet, feed_forward):
    layout = LoRALayout.from_config(unet, 3, feed_forward)
    found = lora_size(3, feed_forward, unet)
    assert (found.values, found.modules) == (layout.numel, len(layout.modules))


def test_sdxl_is_that_of_the_core():
    assert {name: SDXL.unet_config[name] for name in SDXL_UNET} == SDXL_UNET


@pytest.mark.parametrize("file", LAES)
@pytest.mark.parametrize("change", [{}, {"tied": False}, {"variational": True}])
def test_an_autoencoder(file, change):
    config = replace(read_settings(LAESettings, FOLDER / file).lae, **change)
    layout = LoRALayout.from_config(None, 4, False)
    with torch.device("meta"):
        network = network_for(layout, config)
        loras = torch.randn(2, layout.numel)
    found = lae_size(config, lora_size(4, False))
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    if not config.variational:  # which only training samples
        with FlopCounterMode(display=False) as counter:
            network.decode(network.encode(loras))
        assert 2 * found.operations == pytest.approx(counter.get_total_flops(), rel=1e-3)


@pytest.mark.parametrize("name", ["small", "miniature"])
def test_mif_and_dit(name):
    dit = CONFIGURATIONS[name]
    mif = MIFConfig(512, 768, dit.condition_width)
    model, found = Denoiser(dit, mif), denoiser_size(dit, mif)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        zeros = torch.zeros(2, dtype=torch.long)
        latents = torch.zeros(2, dit.tokens, dit.latent_width)
        model(latents, zeros, torch.zeros(2, 512), torch.zeros(2, 768), zeros.bool())
    assert 2 * found.operations == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_baselines_are_not_counted():
    config = read_settings(LAESettings, FOLDER / LAES[0]).lae
    assert lae_size(replace(config, kind="linear"), lora_size(4, False)) is None
