"""The checkpoint: everything in one file, and nothing that isn't one."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from difflora_core.checkpoint import HEADER
from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.file_formats import save_lora
from difflora_core.lora.lora import LoRA
from difflora_core.model import DiffLoRA


def test_file_round_trip(tmp_path, model):
    model.save(tmp_path / "m.safetensors", dtype=torch.float32)
    loaded = DiffLoRA.load(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    assert loaded.layout == model.layout
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_half_precision_keeps_the_statistics_exact(tmp_path, model):
    model.save(tmp_path / "m.safetensors")
    loaded = DiffLoRA.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.lae.mean, model.lae.mean)
    torch.testing.assert_close(loaded.dit.out.weight, model.dit.out.weight, rtol=1e-3, atol=1e-3)


def test_a_lora_in_place_of_a_checkpoint_is_named(tmp_path, layout, loras):
    save_lora(tmp_path / "p.safetensors", loras[0], layout)
    with pytest.raises(ValueError, match="no DiffLoRA checkpoint but a LoRA file"):
        DiffLoRA.load(tmp_path / "p.safetensors")


def test_our_own_lora_in_place_of_a_checkpoint_is_named(tmp_path, layout, loras):
    LoRA(loras[0], layout, {"seed": 0}).save(tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="but a LoRA that DiffLoRA made: put it into models/loras"):
        DiffLoRA.load(tmp_path / "p.safetensors")


def test_another_model_is_named(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="some other model"):
        DiffLoRA.load(tmp_path / "p.safetensors")


def test_truncated_checkpoint_is_named(tmp_path, model):
    path = tmp_path / "m.safetensors"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        DiffLoRA.load(path)


def test_a_newer_format_asks_for_an_update(tmp_path, model, monkeypatch):
    monkeypatch.setattr("difflora_core.checkpoint.FORMAT", 2)
    model.save(tmp_path / "m.safetensors")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 2, this version reads up to 1"):
        DiffLoRA.load(tmp_path / "m.safetensors")


def rewrite(path, change):
    """Change a checkpoint's header by a function of it."""
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata[HEADER])
    write_tensors(path, tensors, metadata | {HEADER: json.dumps(change(header))})


def test_token_types_are_kept_in_the_file(tmp_path, layout, config):
    config = replace(config, dit=replace(config.dit, token_types=(0, 1, 0), token_depths=(0, 0, 1)))
    DiffLoRA(layout, config).save(tmp_path / "m.safetensors")
    assert DiffLoRA.load(tmp_path / "m.safetensors").config == config


def test_a_field_of_a_newer_version_asks_for_an_update(tmp_path, model):
    model.save(tmp_path / "m.safetensors")
    rewrite(tmp_path / "m.safetensors", lambda h: h["config"]["dit"].update(telepathy=True) or h)
    with pytest.raises(ValueError, match="'telepathy', which this version doesn't know: update DiffLoRA"):
        DiffLoRA.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: ["other"], "header has another content"),
        (lambda header: {**header, "config": ["other"]}, "header that cannot be read"),
        (lambda header: header["config"].pop("mif") and header, "header that cannot be read: 'mif'"),
        (lambda header: header["config"]["dit"].update(width=20) or header, "weights that don't fit its header"),
    ],
)
def test_a_damaged_header_is_named(tmp_path, model, change, message):
    model.save(tmp_path / "m.safetensors")
    rewrite(tmp_path / "m.safetensors", change)
    with pytest.raises(ValueError, match=f"m.safetensors .*{message}"):
        DiffLoRA.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loaded_in_half_precision_statistics_and_loras_are_float32(tmp_path, model, loras, dtype):
    model.save(tmp_path / "m.safetensors", dtype=torch.float32)
    rough = DiffLoRA.load(tmp_path / "m.safetensors", dtype=dtype)
    assert {parameter.dtype for parameter in rough.parameters()} == {dtype}
    for name, statistic in model.named_buffers():
        assert torch.equal(rough.get_buffer(name), statistic), name
    face, image = torch.randn(2, 6), torch.randn(2, 5)
    made = rough.lora(face, image, generator=torch.Generator().manual_seed(0))
    assert {tensor.dtype for tensor in made.values()} == {torch.float32}
    # The average person has no rounding at all: it is the mean LoRA plus what the network makes of zero
    latents = torch.zeros(1, 3, 2)
    torch.testing.assert_close(rough.decode(latents), model.decode(latents), rtol=0, atol=0.02)
    assert rough.encode(loras[:2]).dtype == torch.float32
    torch.testing.assert_close(rough.encode(loras[:2]), model.encode(loras[:2]), rtol=0, atol=0.1)


def test_a_small_deviation_from_a_large_mean_survives_half_precision(tmp_path, model):
    """In half precision the mean itself would be off by more than people differ."""
    model.lae.mean += 100.0
    model.save(tmp_path / "m.safetensors", dtype=torch.float32)
    rough = DiffLoRA.load(tmp_path / "m.safetensors", dtype=torch.bfloat16)
    latents = torch.ones(1, 3, 2)
    torch.testing.assert_close(rough.decode(latents), model.decode(latents), rtol=0, atol=0.05)
