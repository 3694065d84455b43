"""Held-out losses: always the same noise, each person with their own LoRA, and how much LoRAs recover."""

import pytest
import torch

from tests.training.tiny_world import LAYOUT, base_model, diffusion_loss, person_images
from training.base_model.held_out_loss import DRAWS, held_out_losses, mean_loss

PEOPLE = [
    person_images("ann", torch.tensor([2.0, 0.0, -1.0, 0.5])),
    person_images("ben", torch.tensor([-1.0, 1.0, 0.0, 2.0])),
    person_images("cleo", torch.tensor([0.0, -2.0, 1.0, 1.0])),
]


@pytest.fixture
def loss():
    return diffusion_loss(base_model())


def train(loss, steps: int) -> torch.Tensor:
    """LoRAs (people, numel) trained a little on the very images."""
    start = 0.3 * torch.randn(LAYOUT.numel, generator=torch.Generator().manual_seed(0))
    loras = start.expand(len(PEOPLE), -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([loras], lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        loss(loras, PEOPLE, step).sum().backward()
        optimizer.step()
    return loras.detach()


def test_the_mean_is_over_steps_that_no_training_takes():
    steps = []
    mean_loss(lambda step: steps.append(step) or torch.zeros(1))
    assert len(steps) == DRAWS
    assert max(steps) < 0


def test_the_same_noise_every_time(loss):
    loras = train(loss, 3)
    assert torch.equal(held_out_losses(loss, loras, PEOPLE), held_out_losses(loss, loras, PEOPLE))


def test_each_person_has_their_own_lora(loss):
    loras = train(loss, 60)
    own, others = (held_out_losses(loss, given, PEOPLE) for given in (loras, loras.roll(1, 0)))
    assert (own < others).all()


def test_the_number_of_people_per_batch_changes_nothing(loss):
    loras = train(loss, 5)
    one, all_of_them = (held_out_losses(loss, loras, PEOPLE, count) for count in (1, 16))
    torch.testing.assert_close(one, all_of_them)
