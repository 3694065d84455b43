"""The latent-space loss: modality dropout, and the terms through the LAE's decoder."""

from dataclasses import replace

import pytest
import torch

from difflora_core.lora.delta_weights import DeltaWeights
from training.denoiser.config import DiffLoRATraining
from training.denoiser.latent_space_objective import DeltaWeightLoss, LatentObjective
from training.denoiser.train import new_denoiser
from training.people.conditions import People

from .shapes import DIT, LAYOUT, LOOP, MIF_CONFIG


def steps_without(config, world, steps=200):
    """How many steps had no face and how many no image."""
    missing = {"face": 0, "image": 0}

    class Watch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, noisy, timesteps, face, image, null):
            missing["face"] += face is None
            missing["image"] += image is None
            return noisy * self.weight

    loss = LatentObjective(People(*world[:2]), config)
    watch = Watch()
    for step in range(steps):
        loss(watch, step, torch.Generator().manual_seed(step))
    return missing["face"] / steps, missing["image"] / steps


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"modality_dropout": 0.0}, (0.0, 0.0)),
        ({"modality_dropout": 0.6}, (0.3, 0.3)),
        ({"modality_dropout": 0.0, "face_dropout": 0.5}, (0.5, 0.0)),
        ({"modality_dropout": 0.2, "image_dropout": 0.7}, (0.1, 0.7)),
    ],
)
def test_each_modality_is_dropped_at_its_share(world, options, expected):
    found = steps_without(DiffLoRATraining(LOOP, batch=2, **options), world)
    assert found == pytest.approx(expected, abs=0.1)


def test_the_terms_through_the_decoder_see_no_fault_in_a_perfect_latent(lae):
    delta_weight_loss = DeltaWeightLoss(lae, DiffLoRATraining(LOOP, delta_w_error=1.0, delta_w_direction=1.0))
    clean = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    value, _ = delta_weight_loss(clean, clean, torch.full((3,), 500))
    assert float(value) == pytest.approx(0, abs=1e-4)


def test_the_terms_are_those_of_the_decoded_latents(lae):
    delta_weight_loss = DeltaWeightLoss(
        lae, DiffLoRATraining(LOOP, delta_w_error=2.0, delta_w_direction=3.0, delta_w_people=2)
    )
    clean, wrong = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    value, metrics = delta_weight_loss(wrong, clean, torch.full((3,), 500))
    deltas, decoded, target = DeltaWeights(LAYOUT), lae.decode(wrong[:2]), lae.decode(clean[:2])
    error, direction = deltas.relative_error(decoded, target), deltas.direction(decoded, target)
    assert float(value) == pytest.approx(float(2 * error + 3 * direction), rel=1e-5)
    assert float(metrics["delta_w_error"]) == pytest.approx(float(error), rel=1e-5)
    assert float(metrics["delta_w_direction"]) == pytest.approx(float(direction), rel=1e-5)


def test_only_timesteps_below_the_limit_are_decoded(lae):
    delta_weight_loss = DeltaWeightLoss(lae, DiffLoRATraining(LOOP, delta_w_error=1.0, delta_w_below=300))
    clean, wrong = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    wrong[1] = 5.0
    assert float(delta_weight_loss(wrong, clean, torch.tensor([100, 300]))[0]) == pytest.approx(0, abs=1e-4)
    assert float(delta_weight_loss(wrong, clean, torch.tensor([300, 100]))[0]) > 0.1


def test_the_gradient_of_the_delta_w_terms_reaches_the_network(world, lae):
    """Their gradient arrives in the DiT's last layer, and is none in the LAE."""
    config = DiffLoRATraining(LOOP, batch=8, delta_w_error=1.0)
    model = new_denoiser(DIT, MIF_CONFIG, config)
    gradients = []
    for asked in (config, replace(config, delta_w_error=0.0)):
        model.zero_grad()
        LatentObjective(People(*world[:2]), asked, lae)(model, 0, torch.Generator().manual_seed(0))[0].backward()
        gradients.append(model.dit.out.bias.grad.clone())
    assert not torch.allclose(*gradients)
    assert all(parameter.grad is None for parameter in lae.parameters())


def test_fewer_people_than_a_batch_are_refused(world):
    with pytest.raises(ValueError, match="A batch has 65 people, found only 64"):
        LatentObjective(People(*world[:2]), DiffLoRATraining(LOOP, batch=65))


def test_terms_through_the_lae_need_one(world):
    with pytest.raises(ValueError, match="need the LAE, found none"):
        LatentObjective(People(*world[:2]), DiffLoRATraining(LOOP, delta_w_error=1.0))
