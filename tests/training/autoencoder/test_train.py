"""The autoencoder's trainer: never worse than its start, resumable, told by validation people."""

import pytest
import torch

from difflora_core.autoencoder.model import LAEConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.autoencoder.train import LAETraining, train_lae, validate
from training.engine.loop import TrainConfig

LAYOUT = LoRALayout((LoRAModule("a", 12, 10), LoRAModule("b", 8, 12)), rank=2)
CONFIG = LAEConfig(tokens=2, width=2, chunk=12, channels=4, hidden=8)
TRAINING = LAETraining(TrainConfig(steps=60, learning_rate=3e-3, warmup=5, ema=0.9), batch=16, rounds=3)


@pytest.fixture(scope="module")
def people() -> torch.Tensor:
    """LoRAs (120, numel) on a curved two-dimensional surface: a linear code of 4 numbers can't hold them."""
    g = torch.Generator().manual_seed(0)
    position = torch.randn(120, 2, generator=g)
    waves = torch.cat([position, (2.0 * position).sin(), position.square(), position.prod(1, keepdim=True)], dim=1)
    return waves @ torch.randn(waves.shape[1], LAYOUT.numel, generator=g)


def train(people, folder):
    told: dict[str, dict[str, float]] = {}
    lae = train_lae(people[:90], people[90:], LAYOUT, CONFIG, TRAINING, folder, told.__setitem__)
    return lae, told


def test_the_best_round_is_kept(tmp_path, people):
    lae, told = train(people, tmp_path)
    assert list(told) == ["start", "step 20", "step 40", "step 60"]
    kept = validate(lae, people[90:])["r2"]
    assert kept == pytest.approx(max(f["r2"] for f in told.values()), abs=1e-5)
    assert kept > told["start"]["r2"]


def test_interrupted_between_rounds_it_keeps_the_same_best(tmp_path, people):
    through, told = train(people, tmp_path / "through")

    def interrupt(name, figures):
        if name == "step 40":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_lae(people[:90], people[90:], LAYOUT, CONFIG, TRAINING, tmp_path / "again", interrupt)
    again, told_again = train(people, tmp_path / "again")
    assert told_again == told
    for name, tensor in through.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_latents_of_the_result_are_standardized(tmp_path, people):
    lae, _ = train(people, tmp_path)
    torch.testing.assert_close(lae.encode(people[:90]).std(0), torch.ones(2, 2), rtol=1e-3, atol=0)


def test_perfect_reconstruction_is_r2_one(people):
    from difflora_core.autoencoder.model import LAE

    lae = LAE(LAYOUT, LAEConfig(kind="linear", tokens=4, width=4))
    lae.fit(people)
    figures = validate(lae, people)
    assert figures["r2"] == pytest.approx(1.0, abs=1e-4)
    assert figures["delta_w_cosine"] == pytest.approx(1.0, abs=1e-3)
