"""End-to-end objectives: the networks improve by the diffusion loss, the base model and the LAE stay as they are."""

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
from training.end_to_end.config import DenoiserFinetuning, LAEFinetuning
from training.end_to_end.objectives import DenoiserEndToEndObjective, FinetuneDataset, LAEEndToEndObjective
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.people.conditions import Conditions
from training.store.loras import LoRAsInMemory

LOOP = TrainConfig(steps=40, learning_rate=1e-2, warmup=2, ema=0.5, unused_parameters=True)
PEOPLE = 12


@pytest.fixture
def colors() -> Tensor:
    return torch.randn(PEOPLE, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def loras() -> Tensor:
    """Random teachers, which fit nobody's images: there is much to improve."""
    return 0.3 * torch.randn(PEOPLE, LAYOUT.numel, generator=torch.Generator().manual_seed(6))


@pytest.fixture
def lae(loras) -> LAE:
    torch.manual_seed(0)
    lae = LAE(LAYOUT, LAEConfig(tokens=2, width=3, chunk=10, channels=4, hidden=8))
    lae.fit(loras)
    return lae


def test_the_autoencoder_improves(tmp_path, lae, loras, colors):
    images = [person_images(f"{i}", color) for i, color in enumerate(colors)]
    loss = diffusion_loss(base_model())
    before = held_out_losses(loss, lae.decode(lae.encode(loras)), images).mean()
    objective = LAEEndToEndObjective(lae, LoRAsInMemory(loras), images, loss, LAEFinetuning(LOOP, people=6))
    train(lae, objective, LOOP, tmp_path, "lae")
    after = held_out_losses(loss, lae.decode(lae.encode(loras)).detach(), images).mean()
    assert after < 0.9 * before


def dataset_of(colors: Tensor) -> FinetuneDataset:
    """All people; the first eight have a teacher."""
    face = colors[:, None].repeat(1, 3, 1)
    latents = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(8))
    images = [person_images(f"{i}", color) for i, color in enumerate(colors)]
    return FinetuneDataset(Conditions(face, face), images, torch.arange(8), latents)


def test_the_denoiser_improves_and_the_decoder_stays(tmp_path, lae, colors):
    lae.requires_grad_(False)
    dataset, loss = dataset_of(colors), diffusion_loss(base_model())
    torch.manual_seed(0)
    denoiser = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8))
    config = DenoiserFinetuning(LOOP, people=6, batch=4, max_references=3)

    @torch.no_grad()
    def evaluate() -> Tensor:
        condition, _ = denoiser.mif(dataset.conditions.face[:, 0], dataset.conditions.image[:, 0])
        noise = torch.randn(PEOPLE, 2, 3, generator=torch.Generator().manual_seed(9))
        latents = denoiser.dit(noise, torch.full((PEOPLE,), 999), condition)
        return held_out_losses(loss, lae.decode(latents), dataset.images).mean()

    frozen = {name: tensor.clone() for name, tensor in lae.state_dict().items()}
    before = evaluate()
    train(denoiser, DenoiserEndToEndObjective(denoiser, lae, dataset, loss, config), LOOP, tmp_path, "denoiser")
    assert evaluate() < 0.95 * before
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in lae.state_dict().items())


@pytest.mark.parametrize("mode", ["face", "image"])
def test_the_one_modality_of_a_mode_is_never_dropped(lae, colors, mode):
    dataset = dataset_of(colors)
    lae.requires_grad_(False)
    denoiser = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8, mode))
    config = DenoiserFinetuning(LOOP, people=6, batch=4, max_references=3, modality_dropout=1.0)
    objective = DenoiserEndToEndObjective(denoiser, lae, dataset, diffusion_loss(base_model()), config)
    for step in range(6):  # some would drop the face, some the image
        assert objective(denoiser, step, torch.Generator().manual_seed(step))[0].isfinite()


def test_every_person_has_images(colors):
    dataset = dataset_of(colors)
    with pytest.raises(ValueError, match="images of 11 people and embeddings of 12"):
        replace(dataset, images=dataset.images[1:])


def test_more_rollout_steps_than_timesteps_are_refused():
    with pytest.raises(ValueError, match="max_rollout_steps: found 1001"):
        DenoiserFinetuning(max_rollout_steps=1001)


def test_a_micro_batch_of_more_people_than_there_are_is_refused(lae, loras, colors):
    """In place of training on fewer than the settings say."""
    dataset, loss = dataset_of(colors), diffusion_loss(base_model())
    denoiser = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8))
    message = "A micro-batch has 13 people, found only 12 to train on: lower `people`"
    with pytest.raises(ValueError, match=message):
        DenoiserEndToEndObjective(denoiser, lae, dataset, loss, DenoiserFinetuning(LOOP, people=13, batch=4))
    with pytest.raises(ValueError, match=message):
        LAEEndToEndObjective(lae, LoRAsInMemory(loras), dataset.images, loss, LAEFinetuning(LOOP, people=13))
