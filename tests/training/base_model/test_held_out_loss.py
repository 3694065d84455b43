"""Held-out losses: always the same noise, each person with their own LoRA, and how much LoRAs recover."""

import pytest
import torch

from tests.training.tiny_world import PEOPLE, base_model, diffusion_loss, train_loras
from training.base_model.held_out_loss import DRAWS, held_out_losses, mean_loss


@pytest.fixture
def loss():
    return diffusion_loss(base_model())


def test_the_mean_is_over_steps_that_no_training_takes():
    steps = []
    mean_loss(lambda step: steps.append(step) or torch.zeros(1))
    assert len(steps) == DRAWS
    assert max(steps) < 0


def test_the_same_noise_every_time(loss):
    loras = train_loras(loss, 3)
    assert torch.equal(held_out_losses(loss, loras, PEOPLE), held_out_losses(loss, loras, PEOPLE))


def test_each_person_has_their_own_lora(loss):
    loras = train_loras(loss, 60)
    own, others = (held_out_losses(loss, given, PEOPLE) for given in (loras, loras.roll(1, 0)))
    assert (own < others).all()


def test_the_number_of_people_per_batch_changes_nothing(loss):
    loras = train_loras(loss, 5)
    one, all_of_them = (held_out_losses(loss, loras, PEOPLE, count) for count in (1, 16))
    torch.testing.assert_close(one, all_of_them)
