"""The diffusion loss of given LoRAs: each person's own, and a gradient for the LoRA alone."""

import pytest
import torch

from tests.training.tiny_world import LAYOUT, base_model, diffusion_loss, person_images


@pytest.fixture
def loras() -> torch.Tensor:
    return 0.3 * torch.randn(2, LAYOUT.numel, generator=torch.Generator().manual_seed(1))


PEOPLE = [
    person_images("ann", torch.tensor([2.0, 0.0, -1.0, 0.5])),
    person_images("ben", torch.tensor([-1.0, 1.0, 0.0, 2.0])),
]


def test_a_persons_loss_is_the_same_alone(loras):
    loss = diffusion_loss(base_model())
    together = loss(loras, PEOPLE, step=3)
    for person in range(2):
        alone = loss(loras[person : person + 1], PEOPLE[person : person + 1], step=3)
        torch.testing.assert_close(alone[0], together[person])


def test_another_step_is_another_noise(loras):
    loss = diffusion_loss(base_model())
    assert not torch.equal(loss(loras, PEOPLE, step=0), loss(loras, PEOPLE, step=1))


def test_the_gradient_is_the_loras_and_lowers_the_loss(loras):
    network = base_model()
    loss = diffusion_loss(network)
    loras.requires_grad_(True)
    before = loss(loras, PEOPLE, step=0)
    before.sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    after = loss(loras.detach() - 0.01 * loras.grad, PEOPLE, step=0)
    assert (after < before).all()


def test_as_many_loras_as_people(loras):
    with pytest.raises(ValueError, match="found 2 LoRAs and 1 people"):
        diffusion_loss(base_model())(loras, PEOPLE[:1], step=0)


def test_a_lora_of_another_layout_is_refused(loras):
    with pytest.raises(ValueError, match="has 40 weights"):
        diffusion_loss(base_model())(loras[:, :-1], PEOPLE, step=0)
