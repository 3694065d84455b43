"""The autoencoder's loss: its terms, and the augmentation."""

from dataclasses import fields, replace

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.seeds import generator_for
from training.autoencoder import weight_space_objective as objective_module
from training.autoencoder.config import LAETraining, LossWeights
from training.autoencoder.train import new_lae
from training.autoencoder.weight_space_objective import TERMS, LAEObjective
from training.store.loras import LoRAsInMemory

LAYOUT = LoRALayout((LoRAModule("a", 12, 10), LoRAModule("b", 8, 12)), rank=2)


def test_every_weight_has_its_term():
    assert [entry.name for entry in fields(LossWeights)] == list(TERMS)


def objective(**changed) -> LAEObjective:
    lae = new_lae(LAYOUT, LAEConfig(tokens=2, width=2, chunk=12, channels=4, hidden=8), 0)
    loras = LoRAsInMemory(torch.randn(24, LAYOUT.numel, generator=torch.Generator().manual_seed(0)))
    lae.fit(loras)
    return LAEObjective(lae, loras, LAETraining(batch=8, **changed))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    names = [name for name in TERMS if name != "kl"]
    each = {name: 0.5 + number for number, name in enumerate(names)}
    loss = objective(losses=LossWeights(**each))
    value, metrics = loss(loss.lae, 0, generator_for(0, 0, 0))
    assert list(metrics) == names
    assert float(value.detach()) == pytest.approx(sum(each[name] * float(metrics[name]) for name in names))
    target = loss.augmented(loss.draw(0, generator_for(0, 0, 0)))
    predicted = loss.lae(target)[0]
    assert float(metrics["reconstruction"]) == pytest.approx(float((predicted - target).square().mean()))


def test_a_term_of_weight_zero_is_not_computed(monkeypatch):
    def fail(result, delta):
        raise AssertionError("computed")

    monkeypatch.setattr(objective_module, "TERMS", {**TERMS, "spectrum": fail})
    loss = objective(losses=LossWeights(spectrum=0.0))
    loss(loss.lae, 0, generator_for(0, 0, 0))
    loss.weights["spectrum"] = 1.0
    with pytest.raises(AssertionError, match="computed"):
        loss(loss.lae, 0, generator_for(0, 0, 0))


def test_scaled_samples_keep_their_direction():
    plain = objective(blend=0.0)
    scaled = LAEObjective(plain.lae, plain.loras, replace(plain.training, scale=0.5))
    rows, longer = (loss.augmented(loss.draw(0, generator_for(0, 0, 0))) for loss in (plain, scaled))
    factors = longer.norm(dim=1) / rows.norm(dim=1)
    torch.testing.assert_close(longer, factors[:, None] * rows)
    assert factors.std() > 0.1


def test_noise_is_seen_by_the_network_and_not_by_the_target():
    loss, seen = objective(noise=0.5), []

    def model(normalized):
        seen.append(normalized)
        return loss.lae(normalized)

    loss(model, 0, generator_for(0, 0, 0))
    noise = seen[0] - loss.augmented(loss.draw(0, generator_for(0, 0, 0)))
    assert float(noise.std()) == pytest.approx(0.5, rel=0.1)
