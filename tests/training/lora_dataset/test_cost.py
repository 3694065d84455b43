"""The estimate of a run: what is left to do, at the speed that was measured."""

from dataclasses import replace

import pytest

from miniature.base_model.config import lora_layout
from training.base_model.sdxl import SDXLBase
from training.lora_dataset import cost
from training.lora_dataset.config import CollectConfig, DatasetConfig, GenerateConfig
from training.lora_dataset.cost import Measurement, Sizes, estimate, measure

SIZES = Sizes(lora_weights=5_000_000, latent_values=40_000)
MEASURED = Measurement(seconds_per_image_step=0.5, seconds_per_training_step=9.0)


def test_sizes_are_counted_without_loading_the_base_model(
    preprocessed: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "open_configured_base", None)
    assert Sizes.of(preprocessed) == Sizes(lora_weights=lora_layout().numel, latent_values=16 * 16 * 16)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_measured_is_the_stage_s_own_training(
    preprocessed: DatasetConfig, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """The loss, the optimizer and gradient checkpointing: an estimate of another training is none."""
    batches, opened = [], SDXLBase.open(preprocessed.base)
    original = SDXLBase.predict

    def predict(base: SDXLBase, noisy, *others):
        batches.append((len(noisy), base.unet.is_gradient_checkpointing))
        return original(base, noisy, *others)

    monkeypatch.setattr(cost, "open_configured_base", lambda *_: opened)
    monkeypatch.setattr(SDXLBase, "predict", predict)
    teacher = replace(preprocessed.dreambooth, gradient_checkpointing=checkpointing, prior_weight=0.5)
    config = replace(preprocessed, generate=GenerateConfig(enabled=False), dreambooth=teacher)
    found = measure(config, "cpu")
    rows = 2 * teacher.people * teacher.images_per_person  # with as many images of the class
    assert set(batches) == {(1, False), (rows, checkpointing)}
    assert min(found.seconds_per_image_step, found.seconds_per_training_step) > 0
    assert found.training_peak is None, "only CUDA tells"


def test_each_stage_has_a_line_before_anything_is_measured(preprocessed: DatasetConfig) -> None:
    config = replace(preprocessed, collect=replace(preprocessed.collect, path=str(preprocessed.workspace / "generate")))
    parts = estimate(config, ["generate", "preprocess", "dreambooth", "pack", "verify"])
    lines = next(parts).splitlines()
    assert lines[0] == "2 people:"
    assert [line.split()[0] for line in lines[1:]] == ["generate", "preprocess", "dreambooth", "pack", "verify"]
    assert lines[2].endswith("at most 0 images, 0 B of latents"), "both people are preprocessed"


def test_hours_follow(preprocessed: DatasetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure", lambda *_: replace(MEASURED, training_peak=3 * 2**30))
    config = replace(preprocessed, collect=replace(preprocessed.collect, path=str(preprocessed.workspace / "generate")))
    _, measured = estimate(config, ["generate", "dreambooth", "pack"])
    lines = measured.splitlines()
    assert lines[0].startswith("measured on ")
    assert [line.split()[0] for line in lines[1:]] == ["generate", "dreambooth"]
    assert lines[2].endswith(" people/h), 3.0 GiB at most")


def test_nothing_is_measured_for_stages_that_need_no_measurement(preprocessed: DatasetConfig) -> None:
    source = str(preprocessed.workspace / "generate")
    config = replace(preprocessed, collect=replace(preprocessed.collect, path=source))
    (only,) = estimate(config, ["pack"])
    assert only.splitlines()[1].startswith("  pack ")


@pytest.mark.parametrize(
    ("name", "items", "size", "hours"),
    [
        ("collect", None, "10 items", None),
        ("generate", None, "240 images, 377 MB", "2.00 h"),  # 24 images of 30 steps, guided: 2 × 0.5 s
        ("preprocess", 5, "at most 120 images, 9.6 MB of latents", None),
        ("dreambooth", None, "3 groups of 4, 200 MB", "3.00 h (4 people/h)"),  # 400 steps of 9 s an hour
        ("dreambooth", 1, "1 groups of 4, 200 MB", "1.00 h (4 people/h)"),
        ("pack", None, "10 LoRAs of 5,000,000 weights, 200 MB", None),
        ("verify", None, "8 items", None),
    ],
)
def test_the_arithmetic(
    preprocessed: DatasetConfig, name: str, items: int | None, size: str, hours: str | None
) -> None:
    config = DatasetConfig(preprocessed.workspace, preprocessed.base)
    assert cost._stage_size(name, config, items, 10, SIZES) == size
    assert cost._stage_hours(name, config, items, 10, MEASURED) == hours


def test_without_a_limit_the_number_of_images_is_not_known(preprocessed: DatasetConfig) -> None:
    config = DatasetConfig(
        preprocessed.workspace,
        preprocessed.base,
        collect=CollectConfig(max_images=0),
        generate=GenerateConfig(enabled=False),
    )
    size = cost._stage_size("preprocess", config, None, 10, SIZES)
    assert size == "all images of 10 people, 80 KB of latents for each"
