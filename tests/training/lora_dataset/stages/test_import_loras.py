"""A folder of LoRA files as a stage: refused files are recorded and stop no other."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.canonical_form import canonical, change_rank
from difflora_core.lora.file_formats import lora_state_dict, save_lora
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


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes both for one name")
def test_one_name_in_two_forms_of_unicode_is_refused(tmp_path, config):
    for name in ("Zo\u00eb", "Zoe\u0308"):
        save_lora(tmp_path / "mine" / f"{name}.safetensors", LORA, LAYOUT)
    with pytest.raises(ValueError, match=r"Zo.*\.safetensors and .*\.safetensors are one name in two forms of Unicode"):
        run_stage(ImportLoRAs(tmp_path / "mine"), config)


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


def imported(config: DatasetConfig, folder: Path, **options: bool) -> dict[str, str]:
    run_stage(ImportLoRAs(folder, **options), config)
    return {record.item: record.status for record in Manifest(config.stage("import")).records()}


def drawn(config: DatasetConfig, seed: int) -> torch.Tensor:
    return torch.randn(configured_layout(config).numel, generator=torch.Generator().manual_seed(seed))


def test_a_file_of_other_content_is_imported_again(tmp_path, config):
    layout, folder = configured_layout(config), tmp_path / "mine"
    save_lora(folder / "anna.safetensors", drawn(config, 1), layout)
    imported(config, folder)
    save_lora(folder / "anna.safetensors", drawn(config, 2), layout)
    assert imported(config, folder) == {"anna": "done"}
    found, _ = read_tensors(config.stage("import") / "anna.safetensors")
    torch.testing.assert_close(found["loras"][0], drawn(config, 2))


def test_another_folders_namesake_is_another_person_and_its_copy_is_not(tmp_path, config):
    layout = configured_layout(config)
    for folder, seed in (("mine", 1), ("yours", 2), ("copies", 1)):
        save_lora(tmp_path / folder / "anna.safetensors", drawn(config, seed), layout)
    imported(config, tmp_path / "mine")
    before = (config.stage("import") / "anna.safetensors").read_bytes()
    found = imported(config, tmp_path / "yours")
    assert sorted(found.values()) == ["done", "done"]
    assert all(name.startswith("anna") for name in found)
    assert (config.stage("import") / "anna.safetensors").read_bytes() == before
    assert imported(config, tmp_path / "copies") == imported(config, tmp_path / "yours") == found


def test_aligned_loras_and_others_are_not_mixed(tmp_path, config):
    layout = configured_layout(config)
    save_lora(tmp_path / "mine" / "anna.safetensors", drawn(config, 1), layout)
    save_lora(tmp_path / "yours" / "bert.safetensors", drawn(config, 2), layout)
    imported(config, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"anna was imported without --aligned from .*mine"):
        imported(config, tmp_path / "yours", aligned=True)
    with pytest.raises(ValueError, match="anna was imported without --aligned"):
        imported(config, tmp_path / "mine", aligned=True, keep=True)
    imported(config, tmp_path / "mine", aligned=True)
    (record,) = Manifest(config.stage("import")).records()
    assert record.facts["aligned"]


def test_five_copies_of_one_lora_are_one_person(tmp_path, config):
    layout, folder = configured_layout(config), tmp_path / "mine"
    save_lora(folder / "anna.safetensors", drawn(config, 1), layout)
    (folder / "link.safetensors").symlink_to(folder / "anna.safetensors")
    for name in ("copy.safetensors", "other.bin", "deep/copy.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "anna.safetensors", folder / name)
    save_lora(folder / "renamed.safetensors", drawn(config, 1), layout, "peft")
    save_lora(folder / "zoe.safetensors", drawn(config, 2), layout)
    found = imported(config, folder)
    assert sorted(name for name, status in found.items() if status == "done") == ["anna", "zoe"]
    assert list(found.values()).count("dropped") == 5
    copy = Manifest(config.stage("import")).read("copy")
    assert copy is not None
    assert copy.reason == "it is the same LoRA as anna"
    save_lora(folder / "anna.safetensors", drawn(config, 3), layout)
    (folder / "link.safetensors").unlink()
    found = imported(config, folder)
    assert sorted(name for name, status in found.items() if status == "done") == ["anna", "copy", "zoe"]


def test_what_was_left_out_is_counted_and_said(tmp_path, config, capsys):
    layout, base = configured_layout(config), "lora_unet_down_blocks_1_attentions_0_proj_in"
    extra = {f"{base}.lora_{role}.weight": torch.ones(1, 1) for role in ("down", "up")}
    text = {"lora_te1_x.lora_up.weight": torch.ones(1, 1)}
    state = lora_state_dict(torch.ones(layout.numel), layout) | extra | text
    write_tensors(tmp_path / "mine" / "anna.safetensors", state)
    run_stage(ImportLoRAs(tmp_path / "mine", leave_out_text_encoder=True, leave_out_other_layers=True), config)
    said = r"left out: 1 layers \(2 tensors, up to 0\.0% of a change's energy\) of 1 LoRAs; 1 tensors of text"
    assert re.search(said, capsys.readouterr().out)
    (record,) = Manifest(config.stage("import")).records()
    assert (record.facts["left_out"]["other_modules"], record.facts["left_out"]["text_encoder_tensors"]) == (1, 1)


@pytest.mark.parametrize("alpha", [4, 16])
def test_alpha_of_peft_is_read_from_the_configuration_beside_the_file(tmp_path, config, alpha):
    layout, folder = replace(configured_layout(config), rank=4), tmp_path / "mine"
    lora = torch.randn(configured_layout(config).numel, generator=torch.Generator().manual_seed(5))
    lora = change_rank(lora, configured_layout(config), layout)[0]
    state = lora_state_dict(lora, layout, "peft")
    state = {key.replace("unet.", "base_model.model."): tensor for key, tensor in state.items()}
    write_tensors(folder / "adapter_model.safetensors", state)
    run_stage(ImportLoRAs(folder), config)
    (record,) = Manifest(config.stage("import")).records()
    assert record.status == "failed"
    assert "adapter_config.json" in record.reason
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": alpha}))
    run_stage(ImportLoRAs(folder), config)
    found = read_tensors(config.stage("import") / "adapter_model.safetensors")[0]["loras"][0]
    expected = change_rank(lora, layout, configured_layout(config))[0]
    expected = canonical(expected, configured_layout(config)) * (alpha / 4) ** 0.5
    torch.testing.assert_close(canonical(found, configured_layout(config)), expected, rtol=1e-4, atol=1e-5)
