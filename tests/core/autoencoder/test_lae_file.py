"""An autoencoder's file: what comes out is what went in, and anything else is refused by name."""

import json
from dataclasses import asdict

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.lae_file import HEADER, load_lae, save_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.files import read_tensors, write_tensors
from difflora_core.network_files import cast_weights, exact_state

CONFIG = LAEConfig(tokens=2, width=3, chunk=12, channels=4, hidden=8)


@pytest.fixture
def lae(layout, loras):
    lae = LAE(layout, CONFIG)
    lae.fit(loras)
    return lae


def test_what_comes_out_is_what_went_in(tmp_path, lae, loras):
    save_lae(tmp_path / "lae.safetensors", lae, {"people": 40})
    read = load_lae(tmp_path / "lae.safetensors")
    assert torch.equal(read.encode(loras), lae.encode(loras))
    assert (read.layout, read.config) == (lae.layout, CONFIG)
    assert json.loads(read_tensors(tmp_path / "lae.safetensors")[1][HEADER])["provenance"] == {"people": 40}
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_statistics_stay_exact_in_half_precision(lae):
    tensors = exact_state(lae, torch.float16)
    buffers = dict(lae.named_buffers())
    assert {name for name, tensor in tensors.items() if tensor.dtype == torch.float32} == set(buffers)
    for name, tensor in buffers.items():
        assert torch.equal(tensors[name], tensor), name


def test_in_half_precision_it_codes_in_float32(tmp_path, lae, loras):
    save_lae(tmp_path / "lae.safetensors", lae)
    rough = cast_weights(load_lae(tmp_path / "lae.safetensors"), "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in rough.parameters()} == {torch.bfloat16}
    assert torch.equal(rough.mean, lae.mean)
    latents = rough.encode(loras)
    assert latents.dtype == rough.decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, lae.encode(loras), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, this version reads up to 1"),
        (
            {"config": {"kind": "conv", "wavelets": 3}},
            "the lae configuration has 'wavelets', which this version doesn't know",
        ),
        ({"format": -5}, "format -5, expected 1 to 1"),
        ({"layout": None}, "header that cannot be read"),
        ({"layout": {"rank": 2}}, "header that cannot be read: 'modules' is missing"),
        ({"config": None}, "the lae configuration is None, expected an object"),
        ({"config": asdict(CONFIG) | {"channels": 10**9}}, "weights that don't fit its header"),
        ({"config": asdict(CONFIG) | {"blocks": 10**9}}, "weights that don't fit its header"),
        (None, "is no autoencoder"),
    ],
    ids=[
        "newer format",
        "newer setting",
        "negative format",
        "no layout",
        "no modules",
        "no config",
        "wide",
        "deep",
        "another file",
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, lae, change, message):
    path = tmp_path / "lae.safetensors"
    save_lae(path, lae)
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata[HEADER])
    write_tensors(path, tensors, {HEADER: json.dumps(header | change)} if change else {})
    with pytest.raises(ValueError, match=message):
        load_lae(path)


def test_weights_that_are_not_finite_are_refused(tmp_path, lae):
    path = tmp_path / "lae.safetensors"
    lae.latent_mean[0, 0] = float("nan")
    save_lae(path, lae)
    with pytest.raises(ValueError, match=r"lae\.safetensors holds NaN or infinite values, first in 'latent_mean'"):
        load_lae(path)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_header_that_is_no_object_is_named(tmp_path, lae, text):
    save_lae(tmp_path / "lae.safetensors", lae)
    write_tensors(tmp_path / "lae.safetensors", read_tensors(tmp_path / "lae.safetensors")[0], {HEADER: text})
    with pytest.raises(ValueError, match=r"lae\.safetensors is no autoencoder: its header is"):
        load_lae(tmp_path / "lae.safetensors")
