"""DreamBooth on the miniature: trained together as alone, whatever the options."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora_core.files import read_tensors, write_tensors
from training.base_model.sdxl import SDXLBase
from training.dreambooth.train import shared_start
from training.lora_dataset import manifest
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage_run import compare, run_stage
from training.lora_dataset.stages import train_loras
from training.lora_dataset.stages.preprocess import read_prepared
from training.lora_dataset.stages.train_loras import DREAMBOOTH, Teacher, groups, read_training_images

PEOPLE = ("anna", "bert")


def trained(config: DatasetConfig, base: SDXLBase, people: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """LoRAs and losses of people, trained together."""
    images, left_out = read_training_images(config, people)
    assert not left_out
    return Teacher.on(config, base).train(images)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared_noise": False},
        {"min_snr_gamma": 5.0},
        {"prior_weight": 0.5},
        {"gradient_checkpointing": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_together_as_alone(preprocessed: DatasetConfig, sdxl: SDXLBase, options: dict[str, object]) -> None:
    """On the real network: nobody's LoRA depends on who else is in the batch."""
    config = replace(preprocessed, dreambooth=replace(preprocessed.dreambooth, **options))
    start = shared_start(sdxl.layout(4, True))
    together, losses = trained(config, sdxl, PEOPLE)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)
    for row, name in enumerate(PEOPLE):
        alone, loss = trained(config, sdxl, [name])
        change = (alone[0] - start).norm()
        assert (together[row] - alone[0]).norm() < 1e-2 * change
        torch.testing.assert_close(losses[row], loss[0], rtol=1e-3, atol=1e-5)


def test_options_change_the_lora(preprocessed: DatasetConfig, sdxl: SDXLBase) -> None:
    plain = trained(preprocessed, sdxl, ["anna"])[0]
    for options in ({"shared_noise": False}, {"min_snr_gamma": 1.0}, {"seed": 1}):
        config = replace(preprocessed, dreambooth=replace(preprocessed.dreambooth, **options))
        other = trained(config, sdxl, ["anna"])[0]
        assert not torch.allclose(other, plain, rtol=1e-2), options


def test_held_out_images_are_not_trained_on(preprocessed: DatasetConfig, sdxl: SDXLBase) -> None:
    """Whatever the held-out image shows, the LoRA is the same; and nobody's last image can be held out."""
    prepared = read_prepared(preprocessed, "anna")
    train, kept = prepared.split(1)
    assert (train.positions, kept.positions) == ([0, 1, 2], [3])
    assert torch.equal(torch.cat([train.latents, kept.latents]), prepared.latents)
    with pytest.raises(ValueError, match="none is left"):
        prepared.split(4)
    config = replace(preprocessed, preprocess=replace(preprocessed.preprocess, held_out=1))
    before = trained(config, sdxl, ["anna"])[0]
    path = config.stage("preprocess") / "anna.safetensors"
    tensors, metadata = read_tensors(path)
    try:
        write_tensors(path, {"latents": torch.cat([tensors["latents"][:-1], 0 * tensors["latents"][-1:]])}, metadata)
        assert torch.equal(trained(config, sdxl, ["anna"])[0], before)
    finally:
        write_tensors(path, tensors, metadata)


def test_a_bad_file_does_not_cost_the_group(preprocessed: DatasetConfig, tmp_path: Path) -> None:
    """The other person is trained, the record says why one is missing, and a second run has nothing to do."""
    shutil.copytree(preprocessed.workspace / "preprocess", tmp_path / "preprocess")
    (tmp_path / "preprocess" / "anna.safetensors").write_bytes(b"torn")
    config = replace(preprocessed, workspace=tmp_path)
    run_stage(DREAMBOOTH, config)
    record = Manifest(config.stage("dreambooth")).read("anna")
    assert record is not None
    assert record.facts["people"] == ["bert"]
    assert "without anna: ValueError" in record.reason
    assert compare(DREAMBOOTH, config).pending == {}


def test_new_people_make_new_groups(preprocessed: DatasetConfig, tmp_path: Path) -> None:
    config = replace(preprocessed, workspace=tmp_path)
    prepared, trained = Manifest(config.stage("preprocess")), Manifest(config.stage("dreambooth"))
    for name in ("b", "d", "e"):
        prepared.write(Record(name))
    assert groups(config) == {"b": ["b", "d"], "e": ["e"]}
    trained.write(Record("b", facts={"people": ["b", "d"]}))
    trained.write(Record("e", facts={"people": ["e"]}))
    for name in ("a", "c"):
        prepared.write(Record(name))
    assert groups(config) == {"b": ["b", "d"], "e": ["e"], "a": ["a", "c"]}


def test_a_group_s_fingerprint_reads_the_records_of_its_own_people(
    preprocessed: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With those of everybody the time of a comparison would grow with the square of the people."""
    config, read = replace(preprocessed, workspace=tmp_path), []
    for name in "abcdef":
        Manifest(config.stage("preprocess")).write(Record(name))
    fingerprint = DREAMBOOTH.fingerprints(config)
    original = manifest._read_record
    monkeypatch.setattr(manifest, "_read_record", lambda path: read.append(path.stem) or original(path))
    for group in ("a", "c", "e"):
        fingerprint(group)
    assert read == list("abcdef")


def test_class_images_are_encoded_in_the_batches_of_preprocess(
    preprocessed: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The autoencoder computes in float32: all images at once would not fit a GPU on which preprocess runs."""
    batches: list[int] = []

    class Base:
        """Stands for `SDXLBase`."""

        def generate(self, captions: Sequence[str], *_: object) -> torch.Tensor:
            return torch.arange(len(captions)).float().view(-1, 1, 1, 1).expand(-1, 3, 8, 8)

        def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
            batches.append(len(pixels))
            return pixels[:, :1, :1, :1]

    monkeypatch.setattr(train_loras, "ensure_text", lambda *_: None)
    config = replace(preprocessed, preprocess=replace(preprocessed.preprocess, batch=3))
    images = train_loras.generate_class_images(config, Base())
    assert batches == [3, 3, 2]
    assert images.latents.flatten().tolist() == list(range(8))
