"""The diffusion loss of given LoRAs: each person's own, and a gradient for the LoRA alone."""

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from difflora_core.lora.layout import LoRALayout
from tests.training.tiny_world import LAYOUT, base_model, diffusion_loss, person_images
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages


@pytest.fixture
def loras() -> torch.Tensor:
    return 0.3 * torch.randn(2, LAYOUT.numel, generator=torch.Generator().manual_seed(1))


IMAGES = [
    PersonImages.complete(name, torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(seed)), torch.arange(3))
    for seed, name in enumerate(("ann", "ben"))
]
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


def test_gradient_checkpointing_gives_the_same_gradient():
    """Through a U-Net of diffusers, whose blocks run twice."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
    ).requires_grad_(False)
    layout = LoRALayout.from_config(unet.config, 2, False)
    runs: list[int] = []
    unet.up_blocks[-1].resnets[0].register_forward_pre_hook(lambda *_: runs.append(1))

    def predict(noisy, timesteps, text_rows):
        return unet(noisy, timesteps, torch.ones(len(noisy), 2, 8)).sample

    gradients, losses = [], []
    for checkpointing, times in ((False, 1), (True, 2)):
        loss = LoRADiffusionLoss(
            unet, layout, predict, DDPMScheduler(), images_per_person=2, gradient_checkpointing=checkpointing
        )
        generator = torch.Generator().manual_seed(1)
        loras = (0.3 * torch.randn(2, layout.numel, generator=generator)).requires_grad_()
        each = loss(loras, IMAGES, step=0)
        (torch.tensor([1.0, 3.0]) * each).sum().backward()
        assert len(runs) == times
        runs.clear()
        gradients.append(loras.grad)
        losses.append(each.detach())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_as_many_loras_as_people(loras):
    with pytest.raises(ValueError, match="found 2 LoRAs and 1 people"):
        diffusion_loss(base_model())(loras, PEOPLE[:1], step=0)


def test_a_lora_of_another_layout_is_refused(loras):
    with pytest.raises(ValueError, match="has 40 weights"):
        diffusion_loss(base_model())(loras[:, :-1], PEOPLE, step=0)
