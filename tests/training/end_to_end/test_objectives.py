"""Training through pictures: the base model and the LAE stay as they are, the pictures get better."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig
from tests.training.tiny_world import LAYOUT, album, base_model, diffusion_loss
from training.base_model.teacher_recovery import held_out_losses
from training.denoiser.train import Denoiser
from training.end_to_end.objectives import (
    Autoencode,
    DenoiserFinetuning,
    FinetuneDataset,
    LAEFinetuning,
    denoiser_loss,
    lae_loss,
)
from training.engine.loop import TrainConfig, train
from training.people.conditions import Conditions
from training.store.loras import LoRAsInMemory

LOOP = TrainConfig(steps=40, learning_rate=1e-2, warmup=2, ema=0.5, unused_parameters=True)
PEOPLE = 12


@pytest.fixture
def colors() -> Tensor:
    return torch.randn(PEOPLE, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def lae() -> LAE:
    """Fitted on teachers that are dice: there is much to be gained."""
    torch.manual_seed(0)
    lae = LAE(LAYOUT, LAEConfig(tokens=2, width=3, chunk=10, channels=4, hidden=8))
    lae.fit(0.3 * torch.randn(PEOPLE, LAYOUT.numel, generator=torch.Generator().manual_seed(6)))
    return lae


def test_the_autoencoder_learns_from_pictures(tmp_path, lae, colors):
    loras = 0.3 * torch.randn(PEOPLE, LAYOUT.numel, generator=torch.Generator().manual_seed(6))
    albums = [album(f"{i}", color) for i, color in enumerate(colors)]
    pictures = diffusion_loss(base_model())
    before = held_out_losses(pictures, lae.decode(lae.encode(loras)), albums).mean()
    training = LAEFinetuning(LOOP, people=6)
    train(Autoencode(lae), lae_loss(lae, LoRAsInMemory(loras), albums, pictures, training), LOOP, tmp_path, "lae")
    after = held_out_losses(pictures, lae.decode(lae.encode(loras)).detach(), albums).mean()
    assert after < 0.9 * before


def everyone_of(lae: LAE, colors: Tensor) -> FinetuneDataset:
    """All people; the first eight have a teacher."""
    face = colors[:, None].repeat(1, 3, 1)
    latents = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(8))
    albums = [album(f"{i}", color) for i, color in enumerate(colors)]
    return FinetuneDataset(Conditions(face, face), albums, torch.arange(8), latents)


def test_the_denoiser_learns_from_pictures_and_the_decoder_stays(tmp_path, lae, colors):
    lae.requires_grad_(False)
    network, everyone = base_model(), everyone_of(lae, colors)
    pictures = diffusion_loss(network)
    torch.manual_seed(0)
    denoiser = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8))
    training = DenoiserFinetuning(LOOP, people=6, batch=4, max_references=3)
    loss = denoiser_loss(denoiser, lae, everyone, pictures, training)

    @torch.no_grad()
    def seen() -> Tensor:
        condition, _ = denoiser.mif(everyone.conditions.face[:, 0], everyone.conditions.image[:, 0])
        noise = torch.randn(PEOPLE, 2, 3, generator=torch.Generator().manual_seed(9))
        latents = denoiser.dit(noise, torch.full((PEOPLE,), 999), condition)
        return held_out_losses(pictures, lae.decode(latents), everyone.albums).mean()

    frozen = {name: tensor.clone() for name, tensor in lae.state_dict().items()}
    before = seen()
    train(denoiser, loss, LOOP, tmp_path, "denoiser")
    assert seen() < 0.95 * before
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in lae.state_dict().items())


@pytest.mark.parametrize("mode", ["face", "image"])
def test_the_one_expert_of_a_mode_is_never_dropped(lae, colors, mode):
    everyone = everyone_of(lae.requires_grad_(False), colors)
    denoiser = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8, mode))
    training = DenoiserFinetuning(LOOP, people=6, batch=4, max_references=3, modality_dropout=1.0)
    loss = denoiser_loss(denoiser, lae, everyone, diffusion_loss(base_model()), training)
    for step in range(6):  # some would drop the face, some the image
        assert loss(denoiser, step, torch.Generator().manual_seed(step))[0].isfinite()


def test_everybody_has_an_album(lae, colors):
    everyone = everyone_of(lae, colors)
    with pytest.raises(ValueError, match="11 albums for 12"):
        replace(everyone, albums=everyone.albums[1:])
