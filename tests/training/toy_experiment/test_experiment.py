"""The toy experiment, in miniature of the miniature: what it compares, and what it writes."""

import json

import pytest
import torch
from PIL import Image

from training.toy_experiment.experiment import (
    ToySettings,
    Weights,
    compress,
    family,
    learn,
    task_loss,
    toy_experiment,
    train_base,
)
from training.toy_experiment.report import COMPRESSORS, KINDS, LATENTS, latents_of

TINY = ToySettings(tasks=12, held_out=4, samples=40, steps=30, autoencoder_steps=2)


@pytest.fixture(scope="module")
def learned():
    tasks = family(10, seed=0)
    base = train_base(tasks, 30, torch.Generator().manual_seed(1))
    return tasks, base, learn(tasks, base, TINY, seed=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_its_task(learned, kind):
    tasks, base, found = learned
    x = torch.randn(10, 100, 8, generator=torch.Generator().manual_seed(3))
    own = found[kind]
    average = task_loss(tasks, base, [matrix * 0 for matrix in tasks], x).mean()
    untrained = {"full, own starts": 3 * average}.get(kind, average)  # random networks are far worse than the average
    assert task_loss(tasks, own.base, own.matrices(own.flat), x).mean() < untrained


def test_a_lora_is_of_its_rank(learned):
    found = learned[2]["LoRA"]
    assert torch.linalg.matrix_rank(found.matrices(found.flat)[1][0], rtol=1e-4) == 2


def test_weights_on_a_plane_need_two_numbers():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(20, 2, generator=generator) @ torch.randn(2, 100, generator=generator)
    weights = Weights(flat, (60, 40), [], lambda numbers: [numbers])
    again = compress("PCA", weights, train=15, latent=2, steps=0, seed=0)
    torch.testing.assert_close(again, flat, rtol=0, atol=1e-4)


def test_full_weights_also_get_the_latents_of_equal_ratio():
    assert latents_of("LoRA", 100, 350) == list(LATENTS)
    assert set(latents_of("full", 100, 350)) == {*LATENTS, 14, 56, 224}


def test_figures_and_figure_are_written_and_the_same_again(tmp_path, capsys):
    first = toy_experiment(tmp_path, 1, TINY)
    assert json.loads((tmp_path / "toy_experiment.json").read_text()) == first
    assert {(entry["kind"], entry["compressor"]) for entry in first} == {(k, c) for k in KINDS for c in COMPRESSORS}
    assert "gain kept at equal latent" in capsys.readouterr().out
    picture = Image.open(tmp_path / "toy_experiment.png")
    assert picture.width > picture.height > 500
    assert toy_experiment(tmp_path, 1, TINY) == first


def test_no_seeds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--seeds is at least 1, found 0"):
        toy_experiment(tmp_path, 0)
