"""The loss of joint training: MIF, DiT and LAE learn from images, with teachers beside or without."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.denoiser.model import Denoiser
from tests.training.tiny_world import LAYOUT, base_model, diffusion_loss, person_images
from training.base_model.held_out_loss import held_out_losses
from training.dreambooth.train import shared_start
from training.end_to_end.config import JointTraining
from training.end_to_end.joint_objective import JointNetwork, JointObjective, JointTeachers
from training.engine.config import TrainConfig
from training.engine.loop import train as train_loop
from training.people.conditions import Conditions
from training.store.loras import LoRAsInMemory

LOOP = TrainConfig(steps=60, learning_rate=1e-2, warmup=2, ema=0.5, unused_parameters=True)
SHAPE = LAEConfig(tokens=2, width=3, chunk=10, channels=4, hidden=8, tied=True)
PEOPLE = 12


@pytest.fixture
def colors() -> Tensor:
    return torch.randn(PEOPLE, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def network() -> JointNetwork:
    torch.manual_seed(0)
    lae = LAE(LAYOUT, SHAPE)
    lae.start_without_loras(shared_start(LAYOUT), 0.1, torch.Generator().manual_seed(0))
    return JointNetwork(Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8)), lae)


def objective_of(
    network: JointNetwork, colors: Tensor, beside: JointTeachers | None = None, **settings
) -> JointObjective:
    face = colors[:, None].repeat(1, 3, 1)
    images = [person_images(f"{i}", color) for i, color in enumerate(colors)]
    config = JointTraining(LOOP, people=6, max_references=3, **settings)
    return JointObjective(network, Conditions(face, face), images, diffusion_loss(base_model()), config, beside)


def train_teachers(objective: JointObjective) -> JointTeachers:
    """A LoRA for each of the first six people."""
    loras = shared_start(LAYOUT).repeat(6, 1).requires_grad_()
    optimizer = torch.optim.Adam([loras], lr=0.02)
    for step in range(60):
        optimizer.zero_grad()
        objective.diffusion_loss(loras, objective.images[:6], step).sum().backward()
        optimizer.step()
    return JointTeachers(LoRAsInMemory(loras.detach()), range(6), range(6))


def test_people_get_loras_that_fit_their_images(tmp_path, network, colors):
    objective = objective_of(network, colors)

    @torch.no_grad()
    def evaluate() -> Tensor:
        noise = torch.randn(PEOPLE, 2, 3, generator=torch.Generator().manual_seed(9))
        face = objective.conditions.face[:, 0]
        null = torch.zeros(PEOPLE, dtype=torch.bool)
        latents = network.denoiser(noise, torch.full((PEOPLE,), 999), face, face, null)
        return held_out_losses(objective.diffusion_loss, network.lae.decode(latents), objective.images).mean()

    before = evaluate()
    train_loop(network, objective, LOOP, tmp_path, "joint")
    assert evaluate() < 0.9 * before


def test_the_encoder_finds_the_latents_of_predicted_loras(tmp_path, network, colors):
    train_loop(network, objective_of(network, colors, encoding_weight=1.0), LOOP, tmp_path, "joint")
    latents = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network.lae.encode(network.lae.decode(latents))
    assert (found - latents).square().mean() < 0.3  # of 1


@pytest.fixture
def teachers(network, colors) -> JointTeachers:
    return train_teachers(objective_of(network, colors))


def test_teachers_beside_are_known_to_the_autoencoder(tmp_path, network, colors, teachers):
    objective = objective_of(network, colors, teachers, teachers=3)
    loras, images = teachers.loras.read(range(6)), objective.images[:6]

    @torch.no_grad()
    def evaluate() -> Tensor:
        rebuilt = network.lae.decode(network.lae.encode(loras))
        return held_out_losses(objective.diffusion_loss, rebuilt, images).mean()

    before, own = evaluate(), held_out_losses(objective.diffusion_loss, loras, images).mean()
    train_loop(network, objective, LOOP, tmp_path, "joint")
    assert before - evaluate() > 0.8 * (before - own)  # 0.3 without teachers in the steps


def test_teachers_take_the_place_of_predicted_loras(network, colors, teachers):
    counts = []

    def losses(loras, images, step):
        counts.append((len(loras), [own.name for own in images[4:]]))
        return objective.diffusion_loss(loras, images, step)

    objective = objective_of(network, colors, teachers, teachers=2)
    chosen = JointObjective(
        network,
        objective.conditions,
        objective.images,
        losses,
        objective.config,
        replace(teachers, people=range(6, 12)),
    )
    _, terms = chosen(network, 0, torch.Generator().manual_seed(0))
    ((number, taught),) = counts
    assert number == 6
    assert {int(name) for name in taught} <= set(range(6, 12))
    assert len(taught) == 2
    assert "teacher_diffusion_loss" in terms


def test_a_micro_batch_has_teachers_as_asked(network, colors, teachers):
    with pytest.raises(ValueError, match="teachers is 6 of the 6 LoRAs"):
        objective_of(network, colors, teachers, teachers=6)
    with pytest.raises(ValueError, match="4 teachers, found only 3 of the people"):
        objective_of(network, colors, replace(teachers, rows=range(3), people=range(3)), teachers=4)
    with pytest.raises(ValueError, match="3 teachers, found only 0"):
        objective_of(network, colors, teachers=3)


def test_the_encoders_loss_does_not_move_predictions(network, colors):
    """Through an untied LAE: a tied one shares its weights."""
    torch.manual_seed(0)
    lae = LAE(LAYOUT, replace(SHAPE, tied=False))
    lae.start_without_loras(shared_start(LAYOUT), 0.1, torch.Generator().manual_seed(0))
    objectives = [objective_of(JointNetwork(network.denoiser, lae), colors, encoding_weight=w) for w in (0.0, 1.0)]
    gradients = []
    for objective in objectives:
        objective.lae.zero_grad()
        objective(JointNetwork(network.denoiser, lae), 0, torch.Generator().manual_seed(0))[0].backward()
        gradients.append(objective.lae.network.group_decoder.weight.grad.clone())
    assert torch.equal(*gradients)


def test_batches_have_no_more_people_than_there_are(network, colors):
    with pytest.raises(ValueError, match="6 people, found only 5"):
        objective_of(network, colors[:5])


def test_every_person_has_images(network, colors):
    objective = objective_of(network, colors)
    with pytest.raises(ValueError, match="images of 11 people and embeddings of 12"):
        JointObjective(network, objective.conditions, objective.images[1:], objective.diffusion_loss, objective.config)
