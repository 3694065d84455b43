"""The autoencoder's trainer: never worse than its start, resumable, validated on other people."""

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.autoencoder import train as train_module
from training.autoencoder.config import LAETraining
from training.autoencoder.reconstruction_metrics import evaluate
from training.autoencoder.train import train_lae
from training.engine.config import EvaluationConfig, TrainConfig
from training.store.loras import LoRAsInMemory

LAYOUT = LoRALayout((LoRAModule("a", 12, 10), LoRAModule("b", 8, 12)), rank=2)
CONFIG = LAEConfig(tokens=2, width=2, chunk=12, channels=4, hidden=8)
TRAINING = LAETraining(
    TrainConfig(steps=60, learning_rate=3e-3, warmup=5, ema=0.9), EvaluationConfig(interval=20), batch=16
)
PCA = {"r2": 0.0}


@pytest.fixture(scope="module")
def people() -> torch.Tensor:
    """LoRAs (120, numel) on a curved two-dimensional surface: a linear code of 4 numbers can't hold them."""
    g = torch.Generator().manual_seed(0)
    position = torch.randn(120, 2, generator=g)
    waves = torch.cat([position, (2.0 * position).sin(), position.square(), position.prod(1, keepdim=True)], dim=1)
    return waves @ torch.randn(waves.shape[1], LAYOUT.numel, generator=g)


def train(people, folder):
    return train_lae(LoRAsInMemory(people[:90]), LoRAsInMemory(people[90:]), LAYOUT, CONFIG, TRAINING, folder)


def test_the_best_weights_are_kept(tmp_path, people):
    lae, history = train(people, tmp_path)
    assert list(history) == [0, 20, 40, 60]
    kept = evaluate(lae, LoRAsInMemory(people[90:]))["r2"]
    assert kept == pytest.approx(max(metrics["r2"] for metrics in history.values()), abs=1e-5)
    assert kept > history[0]["r2"]


def test_the_start_is_compared_with_principal_components(tmp_path, people):
    _, history = train(people, tmp_path)
    assert {"pca_r2", "pca_delta_w_cosine"} < history[0].keys()
    assert "pca_r2" not in history[20]


def test_interrupted_between_evaluations_it_keeps_the_same_best(tmp_path, people, monkeypatch):
    through, history = train(people, tmp_path / "through")
    left = iter(range(2))  # of the start and of step 20; the next evaluation is interrupted
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate", lambda *arguments: (next(left), evaluate(*arguments))[1])
        patch.setattr(train_module, "evaluate_pca", lambda loras, validation, lae: PCA)
        with pytest.raises(StopIteration):
            train(people, tmp_path / "again")
    again, history_again = train(people, tmp_path / "again")
    assert list(history_again) == list(history)
    assert {step: m["r2"] for step, m in history_again.items()} == {step: m["r2"] for step, m in history.items()}
    for name, tensor in through.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_run_of_loras_that_were_trained_again_is_not_resumed(tmp_path, people):
    train(people, tmp_path)
    with pytest.raises(ValueError, match=r"belongs to a run with LoRAs \(hash\) '\w{16}', the configuration says"):
        train(1.01 * people, tmp_path)


def test_latents_of_the_result_are_standardized(tmp_path, people):
    lae, _ = train(people, tmp_path)
    torch.testing.assert_close(lae.encode(people[:90]).std(0), torch.ones(2, 2), rtol=1e-3, atol=0)
