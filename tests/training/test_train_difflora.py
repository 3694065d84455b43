"""The denoiser's trainer on people whose latents follow from their faces."""

import pytest
import torch

from difflora_core.diffusion import SamplingConfig, sample
from difflora_core.dit import DiTConfig
from difflora_core.mif import MIFConfig
from training.train_difflora import Conditions, DiffLoRATraining, People, draw_references, train_denoiser, validate
from training.training_loop import TrainConfig

DIT = DiTConfig(tokens=2, latent_width=2, width=32, layers=1, heads=2, head_width=16, condition_width=16)
MIF_CONFIG = MIFConfig(face_width=4, image_width=4, width=16)


@pytest.fixture
def world():
    """Latents (64, 2, 2) that are a linear map of unit faces; three pictures of each with a little noise."""
    g = torch.Generator().manual_seed(0)
    faces = torch.nn.functional.normalize(torch.randn(64, 4, generator=g), dim=1)
    pictures = faces[:, None] + 0.02 * torch.randn(64, 3, 4, generator=g)
    latents = 2.0 * faces.view(64, 2, 2)
    return latents, Conditions(pictures, pictures.flip(-1)), faces


@pytest.mark.parametrize("blend", [0.0, 0.5])
def test_sampled_latents_follow_the_face(tmp_path, world, blend):
    latents, conditions, faces = world
    loop = TrainConfig(steps=300, learning_rate=5e-3, warmup=20, ema=0.98)
    training = DiffLoRATraining(
        loop, batch=64, most_references=3, embedding_noise=0.05, drop_expert=0.0, rounds=3, blend=blend
    )
    told: dict[str, dict[str, float]] = {}
    people = People(latents, conditions)
    model = train_denoiser(people, people, DIT, MIF_CONFIG, training, tmp_path, told.__setitem__)
    with torch.no_grad():
        condition, _ = model.mif(faces, faces.flip(-1))
        config = SamplingConfig(steps=10, guidance_scale=1.0, samples=4)
        made = sample(model.dit, condition, model.mif.null, (2, 2), config, torch.Generator().manual_seed(0))
    error = (made - latents).square().mean() / latents.square().mean()
    assert error < 0.25  # the average person would be 1
    assert list(told) == ["step 100", "step 200", "step 300"]
    kept = validate(model, people, training.validation_references)["r2"]
    assert kept == pytest.approx(max(figures["r2"] for figures in told.values()), abs=1e-5)


def test_references_are_drawn_and_averaged():
    embeddings = torch.eye(3)[None]  # one person, three orthogonal pictures
    people = torch.zeros(5, dtype=torch.long)
    g = torch.Generator().manual_seed(0)
    single = draw_references(embeddings, people, torch.ones(5, dtype=torch.long), 0.0, g)
    assert set(map(tuple, single.tolist())) <= {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    all_three = draw_references(embeddings, people, torch.full((5,), 3), 0.0, g)
    torch.testing.assert_close(all_three, torch.full((5, 3), 3**-0.5))


def test_embeddings_of_other_pictures_are_refused():
    with pytest.raises(ValueError, match="of the same pictures"):
        Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))


def test_latents_of_other_people_are_refused():
    with pytest.raises(ValueError, match="found 5 and 2"):
        People(torch.zeros(5, 2, 2), Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)))
