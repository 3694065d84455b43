"""The checkpoint: everything in one file, and nothing that isn't one."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from difflora_core.checkpoint import HEADER, autoencoder_fingerprint
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


def test_a_fingerprint_tells_autoencoders_apart(tmp_path, model):
    path = tmp_path / "m.safetensors"
    model.save(path)
    before = autoencoder_fingerprint(path)
    with torch.no_grad():
        next(model.dit.parameters()).add_(1.0)
    model.save(path)
    assert autoencoder_fingerprint(path) == before, "a latent means the same to another DiT"
    with torch.no_grad():
        next(model.lae.network.parameters()).add_(1.0)
    model.save(path)
    assert autoencoder_fingerprint(path) != before


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
        (lambda header: ["other"], r"its header is \['other'\], expected a JSON object"),
        (lambda header: {**header, "config": ["other"]}, "header that cannot be read"),
        (lambda header: {**header, "config": {}}, "header that cannot be read: the lae configuration is missing"),
        (lambda header: header["config"].pop("mif") and header, "cannot be read: the mif configuration is missing"),
        (lambda header: header.pop("layout") and header, "its header has no 'layout'"),
        (lambda header: header.pop("format") and header, "its header has no 'format'"),
        (lambda header: {**header, "format": -5}, "format -5, expected 1 to 1"),
        (lambda header: {**header, "format": True}, "format True, expected 1 to 1"),
        (lambda header: {**header, "format": "1"}, "format '1', expected 1 to 1"),
        (lambda header: {**header, "format": None}, "format None, expected 1 to 1"),
        (lambda header: {**header, "layout": None}, "header that cannot be read"),
        (lambda header: {**header, "layout": {"rank": 2, "modules": [[1, 2, 3]]}}, ""),
        (lambda header: {**header, "layout": {"rank": 2, "modules": [["a"]]}}, "header that cannot be read"),
        *(
            (lambda header, s=section, f=field, v=value: header["config"][s].update({f: v}) or header, message)
            for section, field, value, message in [
                ("lae", "scale", "unknown", "scale: found 'unknown', expected one of spread, delta"),
                ("lae", "blocks", -1, "blocks: found -1, expected"),
                ("lae", "blocks", 10**9, "expected some for each of 1000000000 layers"),
                ("lae", "channels", 10**9, "weights that don't fit its header"),
                ("lae", "kernel", math.nan, "kernel: found nan, expected"),
                ("dit", "layers", 10**9, "expected some for each of 1000000000 layers"),
                ("dit", "width", 20, "weights that don't fit its header"),
                ("dit", "width", 10**9, "header that cannot be read: Storage size calculation overflowed"),
                ("dit", "width", 10**30, "header that cannot be read"),
                ("dit", "width", "20", "width: found '20', expected"),
                ("dit", "mlp_ratio", math.inf, "mlp_ratio: found inf, expected"),
                ("dit", "token_types", ["a", "b", "c"], "header that cannot be read"),
                ("mif", "width", None, "header that cannot be read"),
                ("sampling", "steps", 0, "steps: found 0, expected"),
                ("encoders", "face", None, "the face encoder is None, expected the name of a folder"),
                ("encoders", "face", "../../etc", "the face encoder is '../../etc', expected the name of a folder"),
                ("encoders", "image", "..", r"the image encoder is '\.\.', expected the name of a folder"),
                ("encoders", "image", "C:\\x", "the image encoder is 'C:.*', expected the name of a folder"),
            ]
        ),
    ],
)
def test_a_damaged_header_is_named(tmp_path, model, change, message):
    model.save(tmp_path / "m.safetensors")
    rewrite(tmp_path / "m.safetensors", change)
    with pytest.raises(ValueError, match=f"m.safetensors .*{message}"):
        DiffLoRA.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "nul", "1" * 10_000])
def test_a_header_that_is_no_json_is_named(tmp_path, model, text):
    model.save(tmp_path / "m.safetensors")
    tensors, _ = read_tensors(tmp_path / "m.safetensors")
    write_tensors(tmp_path / "m.safetensors", tensors, {HEADER: text})
    with pytest.raises(ValueError, match=r"m\.safetensors is no checkpoint: its header is not JSON"):
        DiffLoRA.load(tmp_path / "m.safetensors")


def test_a_header_of_a_kilobyte_takes_no_memory(tmp_path, model, layout):
    """A file of a few tensors claims networks of terabytes; the peak of memory is read in a process of its own."""
    path = tmp_path / "m.safetensors"
    model.save(path)
    _, metadata = read_tensors(path)
    header = json.loads(metadata[HEADER])
    header["config"]["dit"].update(width=10**9, heads=10**4, head_width=10**5)
    header["config"]["lae"].update(chunk=1, channels=10**6, hidden=10**8)
    other = tmp_path / "of another layout.safetensors"
    for file, modules in ((path, header["layout"]["modules"]), (other, [["a", 10**12, 10**12]])):
        header["layout"]["modules"] = modules
        write_tensors(file, {"lae.mean": torch.zeros(layout.numel)}, {HEADER: json.dumps(header)})
    code = (
        "import resource, sys; from difflora_core.model import DiffLoRA\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: DiffLoRA.load(path)\n"
        "    except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path, other], capture_output=True, text=True, timeout=120)
    *messages, kilobytes = done.stdout.splitlines()
    assert len(messages) == 2
    assert all("weights that don't fit its header" in message for message in messages)
    assert int(kilobytes) < 50_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["lae.mean", "dit.out.weight"])
def test_weights_that_are_not_finite_are_refused(tmp_path, model, name, value):
    model.save(tmp_path / "m.safetensors")
    tensors, metadata = read_tensors(tmp_path / "m.safetensors")
    tensors[name].view(-1)[-1] = value
    write_tensors(tmp_path / "m.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=f"m.safetensors holds NaN or infinite values, first in '{name}'"):
        DiffLoRA.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": torch.zeros(1)}, "1 tensors too many, the first 'more'"),
        ({"dit.out.weight": None}, "'dit.out.weight' is missing, expected \\(2, 16\\)"),
        ({"dit.out.weight": torch.zeros(3, 16)}, "'dit.out.weight' is \\(3, 16\\), expected \\(2, 16\\)"),
        ({"dit.out.weight": torch.zeros(2, 16).long()}, "'dit.out.weight' as torch.int64, expected floating-point"),
    ],
    ids=["one more", "one less", "shape", "integers"],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, model, change, message):
    model.save(tmp_path / "m.safetensors")
    tensors, metadata = read_tensors(tmp_path / "m.safetensors")
    changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    write_tensors(tmp_path / "m.safetensors", changed, metadata)
    with pytest.raises(ValueError, match=f"m.safetensors holds .*{message}"):
        DiffLoRA.load(tmp_path / "m.safetensors")


def test_a_loaded_model_does_not_hang_on_its_file(tmp_path, model):
    path = tmp_path / "m.safetensors"
    model.save(path, dtype=torch.float32)
    loaded = DiffLoRA.load(path)
    path.write_bytes(bytes(path.stat().st_size))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


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
