"""Metrics of MIF and DiT."""

import torch

from training.denoiser import prediction_metrics
from training.denoiser.config import DiffLoRATraining
from training.denoiser.prediction_metrics import evaluate, predict_latents
from training.denoiser.train import new_denoiser
from training.people.conditions import Conditions, People

from .shapes import DIT, LOOP, MIF_CONFIG


def test_batches_of_people_change_nothing(world, monkeypatch):
    model = new_denoiser(DIT, MIF_CONFIG, DiffLoRATraining(LOOP))
    torch.nn.init.normal_(model.dit.out.weight, generator=torch.Generator().manual_seed(0))
    people = People(*world[:2])
    together = predict_latents(model, people, 3)
    monkeypatch.setattr(prediction_metrics, "PEOPLE_PER_BATCH", 7)
    torch.testing.assert_close(predict_latents(model, people, 3), together, atol=1e-5, rtol=1e-5)


def test_with_an_lae_the_direction_of_delta_w_is_compared(world, lae, loras):
    _, conditions, _ = world
    latents = lae.encode(loras)
    own = Conditions(conditions.face[:40], conditions.image[:40])
    model = new_denoiser(DIT, MIF_CONFIG, DiffLoRATraining(LOOP))
    torch.nn.init.normal_(model.dit.out.bias)
    metrics = evaluate(model, People(latents, own, loras), 3, lae=lae)
    assert set(metrics) == {"r2", "delta_w_cosine"}
    assert -1 <= metrics["delta_w_cosine"] <= 1
    assert "delta_w_cosine" not in evaluate(model, People(latents, own), 3, lae=lae)
