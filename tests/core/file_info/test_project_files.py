"""Files of this project, told from their headers."""

import json

import pytest
import torch

from difflora_core.autoencoder.lae_file import save_lae
from difflora_core.denoiser.latent_file import save_latents
from difflora_core.file_info.describe_file import describe_file
from difflora_core.files import read_tensors, write_tensors
from difflora_core.model import DiffLoRA
from miniature.paths import DIFFLORA_CHECKPOINT
from training.store.lora_store import LoRAStore


@pytest.fixture(scope="module")
def model() -> DiffLoRA:
    return DiffLoRA.load(DIFFLORA_CHECKPOINT)


def test_a_checkpoint():
    facts = describe_file(DIFFLORA_CHECKPOINT)
    for fact in (
        "name: miniature",
        "trained on: 1,008 people",
        "reached on validation people: similarity 0.9279, fidelity 0.998",
        "makes LoRAs: base model sdxl, 70 modules, rank 4, 105,728 weights",
        "LAE: conv, latent 22 × 16, compression 300 to 1",
        "DiT: 4 layers, width 144, 5 heads of width 32",
        "face encoder: miniature, embeddings of width 512",
        "recommended sampling: 1 steps, guidance 1, scheduler ddim, 4 samples, latent scale 1, temperature 0",
        "folder in ComfyUI: models/difflora",
    ):
        assert fact in facts
    assert "7,881,667 values, 106 tensors (100 F16, 6 F32)" in facts[1]


def test_an_autoencoder(tmp_path, model):
    save_lae(tmp_path / "lae.safetensors", model.lae, {"people": 40, "date": "2026-11-27"})
    facts = describe_file(tmp_path / "lae.safetensors")
    assert "LoRA autoencoder (LAE)" in facts[0]
    assert "trained on: 40 people, 2026-11-27" in facts


def test_an_identity(tmp_path):
    save_latents(tmp_path / "ann.safetensors", torch.zeros(2, 18, 16), "person.safetensors", [{"seed": 7}, {}])
    facts = describe_file(tmp_path / "ann.safetensors")
    assert "identity: latents of a person" in facts[0]
    assert "latents: 2 of 18 × 16" in facts
    assert "checkpoint that decodes them: person.safetensors" in facts
    assert "made by: seed 7" in facts


def test_a_shard_of_a_store(tmp_path, model):
    store = LoRAStore(tmp_path, model.layout)
    people = [f"person {number}" for number in range(12)]
    store.add("train", people, torch.zeros(12, model.layout.numel), loss=torch.zeros(12))
    (path,) = tmp_path.glob("train/*.safetensors")
    facts = describe_file(path)
    assert "shard of a LoRA store" in facts[0]
    assert any(fact.endswith("person 6, person 7, … (12 in all)") for fact in facts)
    assert "LoRAs: 12 of 105,728 weights each" in facts
    assert "measured of each: loss" in facts


def test_a_damaged_header_is_an_error(tmp_path):
    tensors, metadata = read_tensors(DIFFLORA_CHECKPOINT)
    header = json.loads(metadata["difflora"])
    for changed, message in (({**header, "format": 99}, "this version reads up to"), ({"format": 1}, "'layout'")):
        write_tensors(tmp_path / "x.safetensors", tensors, {"difflora": json.dumps(changed)})
        with pytest.raises(ValueError, match=message):
            describe_file(tmp_path / "x.safetensors")
    write_tensors(tmp_path / "s.safetensors", {"loras": torch.zeros(2, 3)}, {"people": '["ann"]'})
    with pytest.raises(ValueError, match="expected a list of 2 people"):
        describe_file(tmp_path / "s.safetensors")
