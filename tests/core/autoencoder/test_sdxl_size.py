"""Networks for real SDXL LoRAs, as far as shapes go: nothing of this size is computed here."""

import pytest
import torch

from difflora_core.autoencoder.baselines import strides_for
from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.lora.layout import LoRALayout

CONV = LAEConfig(tokens=160, width=121, chunk=2048, channels=32, hidden=256, groups=20, tied=True)
TOKEN = LAEConfig(kind="token", tokens=560, width=34, channels=32, hidden=512, heads=8, blocks=3, groups=20, tied=True)
BYTES = 20  # per parameter: weights, gradient, Adam's two moments, EMA


@pytest.fixture(scope="module")
def sdxl() -> LoRALayout:
    return LoRALayout.from_config(None, 4)


def test_flat_and_back_is_exact(sdxl):
    flat = torch.randn(sdxl.numel, generator=torch.Generator().manual_seed(0))
    factors = sdxl.unflatten(flat)
    assert len(factors) == 560
    assert torch.equal(sdxl.flatten(factors), flat)


@pytest.mark.parametrize("config", [CONV, TOKEN], ids=["conv", "token"])
def test_ratio_and_size(sdxl, config):
    with torch.device("meta"):
        lae = LAE(sdxl, config)
    assert 290 < lae.compression_ratio < 310
    assert sum(p.numel() for p in lae.parameters()) * BYTES < 24e9 / 2  # the other half is for activations


def test_one_map_per_shape_is_much_smaller(sdxl):
    config = LAEConfig(kind="token", tokens=560, width=34, channels=256, hidden=512, heads=8, groups=20, local=False)
    with torch.device("meta"):
        network = LAE(sdxl, config).network
    maps = sum(p.numel() for name, p in network.named_parameters() if "encoders" in name and "weight" in name)
    assert maps == 4 * (1280 + 2688 + 2560 + 3328) * 256  # rank · (in + out) of four shapes


@pytest.mark.parametrize("ratio", [1, 2, 7, 60, 4679, 36288])
def test_strides_of_the_flat_network_fit_the_ratio(ratio):
    strides = strides_for(ratio)
    product = 1
    for stride in strides:
        product *= stride
    assert ratio <= product <= max(2 * ratio, 4)
