"""Metrics of the autoencoder."""

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.autoencoder.config import LossWeights
from training.autoencoder.reconstruction_metrics import check_diffusion_loss, evaluate
from training.store.loras import LoRAsInMemory

LAYOUT = LoRALayout((LoRAModule("a", 12, 10), LoRAModule("b", 8, 12)), rank=2)


@pytest.fixture
def loras() -> torch.Tensor:
    """Twelve LoRAs, which a latent of 16 values holds exactly."""
    return torch.randn(12, LAYOUT.numel, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lae(loras) -> LAE:
    lae = LAE(LAYOUT, LAEConfig(kind="linear", tokens=4, width=4))
    lae.fit(loras)
    return lae


def test_perfect_reconstruction_is_r2_one(lae, loras):
    metrics = evaluate(lae, LoRAsInMemory(loras), LossWeights(delta_w_error=1.0))
    assert metrics["r2"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["delta_w_cosine"] == pytest.approx(1.0, abs=1e-3)
    assert metrics["delta_w_error"] == pytest.approx(0.0, abs=1e-4)
    assert "spectrum" not in metrics


def test_the_mean_lora_is_r2_zero(lae, loras):
    lae.network.basis.data.zero_()
    lae.latent_mean.zero_()
    assert evaluate(lae, LoRAsInMemory(loras))["r2"] == pytest.approx(0.0, abs=1e-5)


def test_the_diffusion_loss_check_gets_the_reconstructions(lae, loras):
    class Check:
        teachers = loras[:3]

        def metrics(self, rebuilt):
            return {"error": float((rebuilt - loras[:3]).abs().max())}

    assert check_diffusion_loss(lae, Check())["error"] < 1e-3
