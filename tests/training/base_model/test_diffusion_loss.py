"""The diffusion loss of many people: noise that all share or that is each person's own, weights, a prior."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from tests.training.tiny_world import base_model, person_images, predict_with
from training.base_model.diffusion_loss import DiffusionLoss

ANN, BEN = (
    person_images(name, torch.tensor(color))
    for name, color in (("ann", [2.0, 0.0, -1.0, 0.5]), ("ben", [-1.0, 1.0, 0.0, 2.0]))
)


def loss(people, prediction_type="epsilon", **options) -> DiffusionLoss:
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    return DiffusionLoss(predict_with(base_model()), scheduler, people, 2, **options)


def drawn(people, **options):
    """Noise and timesteps of a step, by person and sample."""
    _, _, noise, timesteps, _ = loss(people, **options)._draw_batch(3)
    return noise.unflatten(0, (len(people), -1)), timesteps.unflatten(0, (len(people), -1))


def test_shared_noise_is_the_same_for_all_people():
    noise, timesteps = drawn([ANN, BEN])
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(timesteps[0], timesteps[1])


def test_noise_of_their_own_differs_and_does_not_depend_on_the_others():
    together, alone = (drawn(people, shared_noise=False)[0] for people in ([ANN, BEN], [BEN]))
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together[1], alone[0])


def test_timesteps_can_be_drawn_otherwise():
    def draw(count, length, generator):
        assert length == 1000
        return torch.randint(0, 10, (count,), generator=generator)

    timesteps = drawn([ANN, BEN], shared_noise=False, draw_timesteps=draw)[1]
    assert timesteps.shape == (2, 2)
    assert (timesteps < 10).all()
    assert (drawn([ANN, BEN], shared_noise=False)[1] >= 500).any()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_never_raises_the_loss_and_lowers_it_somewhere(prediction_type):
    plain, weighted = (
        torch.cat([loss([ANN], prediction_type, min_snr_gamma=gamma)(step) for step in range(8)]) for gamma in (0, 1.0)
    )
    assert (weighted <= plain).all()
    assert (weighted < 0.9 * plain).any()


def test_the_prior_adds_its_weighted_loss():
    prior = person_images("class", torch.zeros(4))
    plain, half, whole = (loss([ANN, BEN], prior_weight=weight, prior=prior)(0) for weight in (0.0, 0.5, 1.0))
    assert (whole > plain).all()
    torch.testing.assert_close(half - plain, 0.5 * (whole - plain))


def test_places_weigh_what_they_are_given():
    weights = torch.zeros(len(ANN.latents), *ANN.latents.shape[2:])
    weights[:, 0] = weights.shape[1]  # mean 1, all of it in the first row
    plain, ones, first_row = (
        loss([replace(ANN, loss_weights=given)])(0) for given in (None, torch.ones_like(weights), weights)
    )
    assert torch.equal(plain, ones)
    assert not torch.allclose(plain, first_row)
    changed = ANN.latents.clone()
    changed[:, :, 1:] += 1.0  # beside the first row nothing counts, as the tiny base model looks at single places
    rest = loss([replace(ANN, latents=changed, loss_weights=weights)])(0)
    torch.testing.assert_close(first_row, rest)


def test_a_prior_without_images_is_refused():
    with pytest.raises(ValueError, match="needs class images"):
        loss([ANN], prior_weight=1.0)


def test_another_seed_is_another_draw():
    assert not torch.equal(loss([ANN])(0), loss([ANN], seed=1)(0))
