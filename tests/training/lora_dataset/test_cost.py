"""The estimate of a run: what is left to do, at the speed that was measured."""

from dataclasses import replace

import pytest

from training.lora_dataset.config import DatasetConfig, GenerateConfig
from training.lora_dataset.cost import Measurement, _stage_cost, estimate, measure

MEASURED = Measurement(
    seconds_per_image_step=0.5, seconds_per_training_step=9.0, lora_weights=5_000_000, latent_values=40_000
)


def cost(config: DatasetConfig, name: str, items: int | None, people: int) -> str:
    return _stage_cost(name, config, items, people, MEASURED)


def test_a_measurement_has_the_configured_sizes(preprocessed: DatasetConfig) -> None:
    found = measure(replace(preprocessed, generate=GenerateConfig(enabled=False)), "cpu")
    assert found.latent_values == 4 * 16 * 16
    assert found.lora_weights == 84_224
    assert min(found.seconds_per_image_step, found.seconds_per_training_step) > 0


def test_each_stage_has_a_line(preprocessed: DatasetConfig) -> None:
    config = replace(preprocessed, collect=replace(preprocessed.collect, path=str(preprocessed.workspace / "generate")))
    lines = estimate(config, ["generate", "preprocess", "dreambooth", "pack", "verify"]).splitlines()
    assert lines[0].startswith("2 people, measured on ")
    assert [line.split()[0] for line in lines[1:]] == ["generate", "preprocess", "dreambooth", "pack", "verify"]
    assert lines[2].endswith("at most 0 images, 0 B of latents"), "both people are preprocessed"


@pytest.mark.parametrize(
    ("name", "items", "line"),
    [
        ("collect", None, "10 items"),
        ("generate", None, "240 images, 377 MB, 2.00 h"),  # 24 images of 30 steps, guided: 2 × 0.5 s
        ("preprocess", 5, "at most 120 images, 9.6 MB of latents"),
        ("dreambooth", None, "3 groups of 4, 200 MB, 3.00 h (4 people/h)"),  # 400 steps of 9 s an hour
        ("dreambooth", 1, "1 groups of 4, 200 MB, 1.00 h (4 people/h)"),
        ("pack", None, "10 LoRAs of 5,000,000 weights, 200 MB"),
        ("verify", None, "8 items"),
    ],
)
def test_the_arithmetic(preprocessed: DatasetConfig, name: str, items: int | None, line: str) -> None:
    config = DatasetConfig(preprocessed.workspace, preprocessed.base)
    assert cost(config, name, items, people=10) == line
