"""The denoiser's trainer on people whose latents follow from their faces."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from difflora_core.denoiser.config import SamplingConfig
from difflora_core.denoiser.sampling import sample
from training.denoiser import train as train_module
from training.denoiser.config import DiffLoRATraining
from training.denoiser.prediction_metrics import evaluate
from training.denoiser.train import new_denoiser, train_denoiser
from training.engine import accelerator as engine_accelerator
from training.engine.config import EvaluationConfig
from training.people.conditions import People

from .shapes import DIT, LOOP, MIF_CONFIG


@pytest.mark.parametrize("blend", [0.0, 0.5])
def test_sampled_latents_follow_the_face(tmp_path, world, blend):
    latents, conditions, faces = world
    training = DiffLoRATraining(
        LOOP,
        EvaluationConfig(interval=100),
        batch=64,
        max_references=3,
        embedding_noise=0.05,
        modality_dropout=0.0,
        blend=blend,
    )
    people = People(latents, conditions)
    model, history = train_denoiser(people, people, DIT, MIF_CONFIG, training, tmp_path)
    with torch.no_grad():
        condition, _ = model.mif(faces, faces.flip(-1))
        config = SamplingConfig(steps=10, guidance_scale=1.0, samples=4)
        latents_sampled = sample(model.dit, condition, model.mif.null, (2, 2), config, torch.Generator().manual_seed(0))
    error = (latents_sampled - latents).square().mean() / latents.square().mean()
    assert error < 0.25  # the average person would be 1
    assert list(history) == [100, 200, 300]
    kept = evaluate(model, people, training.validation_references)["r2"]
    assert kept == pytest.approx(max(metrics["r2"] for metrics in history.values()), abs=1e-5)


def test_a_regression_is_sampled_in_one_step_whatever_the_noise(tmp_path, world):
    latents, conditions, faces = world
    training = DiffLoRATraining(
        LOOP, objective="regression", batch=64, max_references=3, embedding_noise=0.05, modality_dropout=0.0
    )
    people = People(latents, conditions)
    model, _ = train_denoiser(people, people, DIT, MIF_CONFIG, training, tmp_path)
    once = SamplingConfig(steps=1, guidance_scale=1.0, samples=1)
    with torch.no_grad():
        condition, _ = model.mif(faces, faces.flip(-1))
        one, other = (
            sample(model.dit, condition, model.mif.null, (2, 2), once, torch.Generator().manual_seed(seed))
            for seed in (0, 1)
        )
    torch.testing.assert_close(one, other)
    assert (one - latents).square().mean() / latents.square().mean() < 0.25


@pytest.mark.parametrize("objective", ["diffusion", "regression"])
def test_only_a_regression_starts_independent_of_its_input(objective):
    model = new_denoiser(DIT, MIF_CONFIG, DiffLoRATraining(LOOP, objective=objective))
    assert bool(model.dit.embed.weight.any()) == (objective == "diffusion")


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path, world, lae, monkeypatch):
    """With every option of a run, stopped at the second of its evaluations."""
    latents, conditions, _ = world
    counted = replace(conditions, counts=torch.arange(64) % 3 + 1)
    people = People(latents, counted)
    loop = replace(LOOP, steps=12, warmup=2, save_every=3)
    config = DiffLoRATraining(
        loop,
        EvaluationConfig(interval=6),
        batch=8,
        face_dropout=0.3,
        image_dropout=0.2,
        min_snr_gamma=5.0,
        delta_w_error=0.1,
        delta_w_direction=0.1,
    )

    def run(folder):
        model, _ = train_denoiser(people, people, DIT, MIF_CONFIG, config, folder, lae)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    through = run(tmp_path / "through")
    with monkeypatch.context() as patch:
        left = iter(range(1))
        patch.setattr(train_module, "evaluate", lambda *arguments: (next(left), evaluate(*arguments))[1])
        with pytest.raises(StopIteration):
            run(tmp_path / "stopped")
    assert torch.equal(run(tmp_path / "stopped"), through)


@pytest.mark.parametrize("mode", ["face", "image", "mean", "gate"])
def test_any_mode_can_be_trained(tmp_path, world, mode):
    """The only modality of a mode is not dropped, whatever modality_dropout says."""
    people = People(*world[:2])
    config = DiffLoRATraining(replace(LOOP, steps=8, warmup=2), batch=4, modality_dropout=1.0)
    _, history = train_denoiser(people, people, DIT, replace(MIF_CONFIG, mode=mode), config, tmp_path)
    assert list(history) == [8]


def test_compiled_and_checkpointed_blocks_learn_the_same(tmp_path, world, monkeypatch):
    monkeypatch.setattr(engine_accelerator, "COMPILER", "aot_eager")  # inductor's own compiler takes long
    people = People(*world[:2])

    def trained(folder, **options):
        config = DiffLoRATraining(
            replace(LOOP, steps=4, warmup=2, compile=options.pop("compile", False)), batch=4, **options
        )
        return train_denoiser(people, people, DIT, MIF_CONFIG, config, folder)[0].state_dict()

    plain = trained(tmp_path / "plain")
    other = trained(tmp_path / "other", compile=True, gradient_checkpointing=True)
    assert plain.keys() == other.keys()
    assert all(torch.allclose(plain[name], other[name], atol=1e-4) for name in plain)


def test_the_diffusion_loss_check_adds_its_metrics_when_it_is_due(tmp_path, world, lae):
    """The check gets the LoRAs of the people it chose."""
    people, shapes = People(*world[:2]), []

    class Check:
        rows: ClassVar = [4, 1]

        def is_due(self, evaluation):
            return evaluation % 2 == 0

        def metrics(self, loras):
            shapes.append(loras.shape)
            return {"teacher_recovery": 0.5}

    config = DiffLoRATraining(replace(LOOP, steps=4, warmup=2), EvaluationConfig(interval=2), batch=4)
    _, history = train_denoiser(people, people, DIT, MIF_CONFIG, config, tmp_path, lae, check=Check())
    assert ["teacher_recovery" in metrics for metrics in history.values()] == [False, True]
    assert shapes == [(2, lae.layout.numel)]
