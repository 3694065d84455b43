"""The settings of train-lae: the shipped files are read, and a run that could not choose its weights is refused."""

from pathlib import Path

import pytest

from training.autoencoder.config import LAETraining
from training.autoencoder.settings import LAESettings
from training.engine.config import EvaluationConfig, TrainConfig
from training.engine.settings import read_settings
from training.people.config import DiffusionLossCheckSettings

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "training" / "recipes").rglob("*_train_lae*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_files_are_read(path):
    settings = read_settings(LAESettings, path)
    assert settings.training.loop.log_with == ("tensorboard",)
    assert settings.layout is not None
    if "sdxl" in str(path):
        assert settings.layout.layout().numel / (settings.lae.tokens * settings.lae.width) > 290


def test_a_check_that_comes_after_the_end_is_refused(tmp_path):
    training = LAETraining(
        TrainConfig(steps=50, learning_rate=1e-3, warmup=5), EvaluationConfig(20, "teacher_recovery")
    )
    LAESettings(
        (tmp_path,), tmp_path, training=training, diffusion_loss_check=DiffusionLossCheckSettings(tmp_path, 8, 3)
    )
    with pytest.raises(ValueError, match=r"every is 4, but 50 steps are evaluated 3 times"):
        LAESettings(
            (tmp_path,), tmp_path, training=training, diffusion_loss_check=DiffusionLossCheckSettings(tmp_path, 8, 4)
        )
