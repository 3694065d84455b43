"""Many people in one batch get the LoRAs that each would get alone."""

import pytest
import torch
from torch import nn

from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.seeds import generator_for
from training.base_model.batched_loras import stacked_loras
from training.dreambooth.config import DreamBoothConfig
from training.dreambooth.train import initial_lora, train_loras

LAYOUT = LoRALayout((LoRAModule("first", 6, 5), LoRAModule("second", 5, 3)), rank=2)
CONFIG = DreamBoothConfig(steps=6, images_per_person=2, learning_rate=1e-2, warmup=2, gradient_checkpointing=False)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("first", nn.Linear(6, 5))
    network.add_module("bend", nn.Tanh())
    network.add_module("second", nn.Linear(5, 3))
    return network.requires_grad_(False)


def person_loss(network, targets):
    """Shared inputs, a target (people, 3) per person; each sample has four tokens."""

    def loss(step):
        x = torch.randn(CONFIG.images_per_person, 4, 6, generator=generator_for(step)).repeat(len(targets), 1, 1)
        error = network(x).unflatten(0, (len(targets), -1)) - targets[:, None, None]
        return error.square().mean((1, 2, 3))

    return loss


def test_together_equals_alone(network):
    targets = torch.randn(3, 3)
    start = initial_lora(LAYOUT, torch.Generator().manual_seed(1))
    together, losses = train_loras(network, LAYOUT, start, 3, person_loss(network, targets), CONFIG)
    for i in range(3):
        alone, loss = train_loras(network, LAYOUT, start, 1, person_loss(network, targets[i : i + 1]), CONFIG)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(losses[i], loss[0], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_start_changes_nothing(network):
    x = torch.randn(2, 4, 6)
    before = network(x)
    with stacked_loras(network, LAYOUT, initial_lora(LAYOUT, torch.Generator())[None]):
        assert torch.equal(network(x), before)
