"""Each person's samples in a batch go through the person's own LoRA, and the layers are restored."""

import pytest
import torch
from torch import nn

from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.base_model.batched_loras import stacked_loras

LAYOUT = LoRALayout((LoRAModule("first", 6, 5), LoRAModule("second", 5, 3)), rank=2)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("first", nn.Linear(6, 5))
    network.add_module("activation", nn.Tanh())
    network.add_module("second", nn.Linear(5, 3))
    return network.requires_grad_(False)


def test_each_sample_gets_its_persons_lora(network):
    loras = torch.randn(2, LAYOUT.numel)
    x = torch.randn(6, 4, 6)
    with stacked_loras(network, LAYOUT, loras):
        batch = network(x)
    for person in range(2):
        with stacked_loras(network, LAYOUT, loras[person : person + 1]):
            torch.testing.assert_close(network(x[3 * person : 3 * person + 3]), batch[3 * person : 3 * person + 3])


def test_layers_are_restored_after_an_exception(network):
    x = torch.randn(1, 4, 6)
    before = network(x)
    with pytest.raises(KeyboardInterrupt), stacked_loras(network, LAYOUT, torch.randn(1, LAYOUT.numel)):
        raise KeyboardInterrupt
    assert torch.equal(network(x), before)
