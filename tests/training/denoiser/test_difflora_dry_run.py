"""`train-difflora --dry-run`."""

import pytest

from training.denoiser.config import DiffLoRATraining
from training.denoiser.difflora_dry_run import dry_run
from training.denoiser.settings import DiffLoRASettings
from training.denoiser.train import new_denoiser
from training.engine.settings import read_settings
from training.people.latents import open_lae

from .toy_run import configure, write_world


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path)


def test_a_dry_run_counts_and_measures_without_store_and_embeddings(world):
    path = configure(world, stores=["none"], embeddings={"cache": ["none"]})
    sizes, measured = dry_run(read_settings(DiffLoRASettings, path))
    report = f"{sizes}\n{measured}"
    settings = read_settings(DiffLoRASettings, path)
    model = new_denoiser(*settings.networks(open_lae(settings.lae), (512, 768)), DiffLoRATraining())
    assert f"{sum(p.numel() for p in model.dit.parameters()):,} parameters" in report
    assert "latent       2 × 3 = 6 values" in report
    assert "steps/s" in report
    assert not (world / "out").exists()


def test_a_dry_run_without_an_lae_takes_the_latent_that_the_dit_was_meant_for(world):
    path = configure(world, lae="none.safetensors")
    report = next(dry_run(read_settings(DiffLoRASettings, path)))  # before anything is measured
    assert "not there yet" in report
    assert "latent       22 × 16 = 352 values" in report
