"""A folder of LoRA files as a stage: refused files are recorded and stop no other."""

import json
from pathlib import Path

import pytest
import torch

from difflora_core.files import read_tensors
from difflora_core.lora.file_formats import save_lora
from difflora_core.lora.layout import LoRALayout, LoRAModule
from miniature.base_model import config as base_config
from training.dreambooth.config import DreamBoothConfig
from training.dreambooth.train import shared_start
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import configured_layout
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages.import_loras import ImportLoRAs

LAYOUT = LoRALayout(
    (
        LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),
        LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 7, 5),
        LoRAModule("mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0", 6, 4),
    ),
    rank=2,
)


LORA = torch.randn(LAYOUT.numel, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(json.dumps(base_config.UNET), encoding="utf-8")
    return DatasetConfig(tmp_path / "work", tmp_path / "base", dreambooth=DreamBoothConfig(rank=1))


def test_a_folder_with_good_and_bad_files(tmp_path, config):
    layout, folder = configured_layout(config), tmp_path / "mine"
    lora = torch.randn(layout.numel, generator=torch.Generator().manual_seed(3))
    save_lora(folder / "anna.safetensors", lora, layout, metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    save_lora(folder / "more" / "Ünlü\n1.safetensors", lora, layout, "peft")
    save_lora(folder / "other.safetensors", LORA, LAYOUT)
    (folder / "page.safetensors").write_bytes(b"<!DOCTYPE html><html>")
    (folder / "old.pt").write_bytes(b"PK\x03\x04zzzzzzzz")
    run_stage(ImportLoRAs(folder), config)
    records = {record.facts.get("path", record.item): record for record in Manifest(config.stage("import")).records()}
    failed = {item: record.reason for item, record in records.items() if record.status == "failed"}
    assert sorted(failed) == ["old", "other", "page"]
    assert "pickled checkpoint" in failed["old"]
    assert "another base model" in failed["other"]
    assert "HTML page" in failed["page"]
    assert records["anna.safetensors"].facts["metadata"] == {"ss_base_model_version": "sdxl_base_v1-0"}
    odd = records["more/Ünlü\n1.safetensors"]
    assert odd.facts["people"] == [odd.item]
    assert (config.stage("import") / f"{odd.item}.safetensors").is_file()


def test_what_is_imported_is_not_imported_again(tmp_path, config):
    layout, folder = configured_layout(config), tmp_path / "mine"
    save_lora(folder / "anna.safetensors", torch.ones(layout.numel), layout)
    run_stage(ImportLoRAs(folder), config)
    before = (config.stage("import") / "anna.safetensors").stat().st_mtime_ns
    save_lora(folder / "bert.safetensors", 2 * torch.ones(layout.numel), layout)
    run_stage(ImportLoRAs(folder), config)
    assert (config.stage("import") / "anna.safetensors").stat().st_mtime_ns == before
    assert Manifest(config.stage("import")).done() == ["anna", "bert"]


def test_names_that_differ_in_the_ending_only_are_two_items(tmp_path, config):
    for name in ("anna.safetensors", "anna.pt"):
        (tmp_path / name).write_bytes(b"")
    assert len(ImportLoRAs(tmp_path).files(config)) == 2


@pytest.mark.parametrize(("name", "message"), [("nowhere", "there is no folder"), ("base", "holds no LoRA files")])
def test_nothing_to_import(tmp_path, config, name, message):
    with pytest.raises(ValueError, match=message):
        ImportLoRAs(tmp_path / name).items(config)


def test_alignment_to_the_teachers_start(tmp_path, config):
    layout = configured_layout(config)
    start = shared_start(layout)
    up = torch.randn(layout.numel, generator=torch.Generator().manual_seed(3))
    teacher = layout.flatten(
        {name: (layout.unflatten(start)[name][0], factor) for name, (_, factor) in layout.unflatten(up).items()}
    )
    turned = layout.flatten(
        {name: (down * -2.0, factor / -2) for name, (down, factor) in layout.unflatten(teacher).items()}
    )
    save_lora(tmp_path / "mine" / "anna.safetensors", turned, layout)
    run_stage(ImportLoRAs(tmp_path / "mine", aligned=True), config)
    found, metadata = read_tensors(config.stage("import") / "anna.safetensors")
    torch.testing.assert_close(found["loras"][0], teacher)
    assert json.loads(metadata["provenance"])["aligned"]
