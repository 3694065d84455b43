"""InstantID's files, modules and pipeline, with random weights in the official layout."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor
from torch.nn import functional as F

from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.base_model import SDXL
from miniature.base_model.config import LATENT_SHAPE
from tests.training.instantid.random_instantid import random_instantid
from training.base_model.sdxl import SDXLBase
from training.instantid.instantid_files import (
    ADAPTER,
    CONTROL,
    InstantID,
    attention_shapes,
    read_instantid,
    resampler_shapes,
    write_instantid,
)
from training.instantid.instantid_pipeline import InstantIDPipeline, Sampler, Strengths
from training.instantid.keypoint_image import COLORS, keypoint_image

FACE = 12.0 * F.normalize(torch.randn(512, generator=torch.Generator().manual_seed(3)), dim=0)
KEYPOINTS = np.array([[48, 56], [80, 56], [64, 72], [52, 88], [76, 88]], dtype=np.float32)
PROMPTS = ["a portrait of a person, smiling", "a portrait of a person, red shirt"]


@pytest.fixture(scope="module")
def instantid(sdxl_folder: Path) -> InstantID:
    return random_instantid(SDXLBase.open(sdxl_folder).unet)


@pytest.fixture(scope="module")
def pipeline(sdxl_folder: Path, instantid: InstantID) -> InstantIDPipeline:
    return InstantIDPipeline(SDXLBase.open(sdxl_folder), instantid)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention by hand, (n, tokens, width)."""
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    weights = (split[0] @ split[1].mT / split[0].shape[-1] ** 0.5).softmax(-1)
    return (weights @ split[2]).transpose(1, 2).flatten(2)


def resample(state: dict[str, Tensor], face: Tensor) -> Tensor:
    """The Resampler by hand, from the official names: (n, 512) → (n, queries, context)."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.linear(face[:, None], state["proj_in.weight"], state["proj_in.bias"])
    latents = state["latents"].expand(len(face), -1, -1)
    heads = latents.shape[-1] // 64
    for n in range(4):
        own = norm(latents, f"layers.{n}.0.norm2")
        seen = torch.cat([norm(x, f"layers.{n}.0.norm1"), own], dim=1)
        key, value = F.linear(seen, state[f"layers.{n}.0.to_kv.weight"]).chunk(2, dim=-1)
        mixed = attend(F.linear(own, state[f"layers.{n}.0.to_q.weight"]), key, value, heads)
        latents = latents + F.linear(mixed, state[f"layers.{n}.0.to_out.weight"])
        inner = F.gelu(F.linear(norm(latents, f"layers.{n}.1.0"), state[f"layers.{n}.1.1.weight"]))
        latents = latents + F.linear(inner, state[f"layers.{n}.1.3.weight"])
    return norm(F.linear(latents, state["proj_out.weight"], state["proj_out.bias"]), "norm_out")


def test_tokens_equal_a_small_resampler(pipeline: InstantIDPipeline, instantid: InstantID) -> None:
    faces = torch.stack([torch.zeros(512), FACE])
    with torch.no_grad():
        found = pipeline.tokens(faces)
    expected = resample(dict(instantid.adapter["image_proj"]), faces)
    assert found.shape == (2, 4, 96)
    assert torch.allclose(found, expected, atol=1e-4)
    with pytest.raises(ValueError, match="of width 512, found 256: `face_pack` names"):
        pipeline.tokens(torch.zeros(1, 256))


def test_cross_attention_equals_a_small_one(pipeline: InstantIDPipeline, instantid: InstantID) -> None:
    """A layer of the down, the up and the middle part, each with its own number in the file."""
    unet, generator = pipeline.base.unet, torch.Generator().manual_seed(1)
    pipeline.pipeline.set_ip_adapter_scale(0.7)
    names = list(unet.attn_processors)
    for part in ("down_blocks", "up_blocks", "mid_block"):
        number = next(i for i, name in enumerate(names) if name.startswith(part) and "attn2" in name)
        layer = unet.get_submodule(names[number].removesuffix(".processor"))
        hidden = torch.randn(2, 9, layer.to_q.in_features, generator=generator)
        text, face = torch.randn(2, 5, 96, generator=generator), torch.randn(2, 4, 96, generator=generator)
        own = {kind: instantid.adapter["ip_adapter"][f"{number}.to_{kind}_ip.weight"] for kind in "kv"}
        with torch.no_grad():
            found = layer(hidden, encoder_hidden_states=(text, [face[:, None]]))
            query = layer.to_q(hidden)
            mixed = attend(query, layer.to_k(text), layer.to_v(text), layer.heads)
            mixed = mixed + 0.7 * attend(query, F.linear(face, own["k"]), F.linear(face, own["v"]), layer.heads)
            expected = layer.to_out[0](mixed)
        assert torch.allclose(found, expected, atol=1e-5), names[number]


def test_identity_net_sees_the_face_in_place_of_the_text(pipeline: InstantIDPipeline, sdxl_folder: Path) -> None:
    net, generator = pipeline.identity_net, torch.Generator().manual_seed(2)
    stock = ControlNetModel.from_config(net.config)
    stock.load_state_dict(net.state_dict())
    noisy, text = torch.randn(1, *LATENT_SHAPE, generator=generator), torch.randn(1, 77, 96, generator=generator)
    picture = torch.from_numpy(keypoint_image(KEYPOINTS, 128)).permute(2, 0, 1)[None] / 255.0
    added = {"text_embeds": torch.randn(1, 64, generator=generator), "time_ids": torch.full((1, 6), 128.0)}
    with torch.no_grad():
        net.face_tokens = pipeline.tokens(FACE[None])
        found = net(noisy, 500, text, picture, added_cond_kwargs=added, return_dict=False)
        expected = stock(noisy, 500, net.face_tokens, picture, added_cond_kwargs=added, return_dict=False)
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(one, other) for one, other in zip(found[0], expected[0], strict=True))
    assert found[1].abs().max() > 0


def generate(pipeline: InstantIDPipeline, face: Tensor, guidance: float = 3.0, **changes: float) -> Tensor:
    generators = [torch.Generator().manual_seed(number) for number in range(len(PROMPTS))]
    pictures = [keypoint_image(KEYPOINTS, 128)] * len(PROMPTS)
    return pipeline.generate(PROMPTS, "", face, pictures, generators, Sampler(128, 2, guidance), Strengths(**changes))


def test_both_parts_act_and_without_them_it_is_the_base_model(pipeline: InstantIDPipeline, sdxl_folder: Path) -> None:
    off = generate(pipeline, FACE, adapter=0.0, control=0.0)
    generators = [torch.Generator().manual_seed(number) for number in range(len(PROMPTS))]
    plain = SDXLBase.open(sdxl_folder).pipeline(
        PROMPTS,
        height=128,
        width=128,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=generators,
        output_type="latent",
    )
    assert torch.allclose(off, pipeline.base.decode(plain.images), atol=1e-4)
    for changes in ({"adapter": 0.8, "control": 0.0}, {"adapter": 0.0, "control": 0.8}):
        assert (generate(pipeline, FACE, **changes) - off).abs().mean() > 1e-3, changes
    assert not torch.equal(generate(pipeline, FACE), generate(pipeline, -FACE))
    assert generate(pipeline, FACE, guidance=1.0).shape == (2, 3, 128, 128)


def test_files_are_read_as_they_were_written(instantid: InstantID, tmp_path: Path) -> None:
    write_instantid(tmp_path, instantid)
    again = read_instantid(tmp_path)
    for part, tensors in instantid.adapter.items():
        assert all(torch.equal(again.adapter[part][name], tensor) for name, tensor in tensors.items())
    assert again.control_config == instantid.control_config
    assert again.identity_net().state_dict().keys() == instantid.control.keys()


def test_the_official_sizes() -> None:
    """Counts of the published file, by meta tensors: 422.8 million numbers in the adapter, 70 attention layers."""
    unet = SDXL().network(None)
    resampler, attention = resampler_shapes(1280, 16, 512, 2048), attention_shapes(unet)
    assert list(attention)[:2] == ["1.to_k_ip.weight", "1.to_v_ip.weight"]
    assert max(int(name.split(".")[0]) for name in attention) == 139
    assert len(attention) == 140
    assert attention["49.to_k_ip.weight"] == (1280, 2048)
    assert attention["1.to_k_ip.weight"] == (640, 2048)
    total = sum(int(np.prod(shape)) for shape in (*resampler.values(), *attention.values()))
    assert round(total / 1e6, 1) == 422.8


def test_files_that_are_refused(instantid: InstantID, pipeline: InstantIDPipeline, tmp_path: Path) -> None:
    write_instantid(tmp_path, instantid)
    tensors = read_tensors(tmp_path / ADAPTER)[0]
    missing = {name: t for name, t in tensors.items() if not name.endswith("layers.2.0.to_kv.weight")}
    shaped = {**tensors, "ip_adapter.5.to_k_ip.weight": torch.zeros(1, 96)}
    infinite = {**tensors, "image_proj.norm_out.bias": torch.full((96,), torch.inf)}
    further = {**tensors, "image_proj.layers.4.1.0.bias": torch.zeros(64)}
    for found, message in (
        (missing, r"image_proj lacks layers\.2\.0\.to_kv\.weight \(1 tensors"),
        (shaped, r"ip_adapter: 5\.to_k_ip\.weight has the shape \(1, 96\), expected"),
        (infinite, r"image_proj: norm_out\.bias holds NaN or infinite"),
        (further, r"image_proj has the unknown layers\.4\.1\.0\.bias"),
    ):
        write_tensors(tmp_path / ADAPTER, found)
        with pytest.raises(ValueError, match=message):
            read_instantid(tmp_path).check(pipeline.base.unet)
    write_tensors(tmp_path / ADAPTER, {"unet.a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"is not InstantID's: it holds unet\.a"):
        read_instantid(tmp_path)
    other = replace(instantid, control_config={**instantid.control_config, "cross_attention_dim": 2048})
    with pytest.raises(ValueError, match="IdentityNet's cross_attention_dim is 2048, the U-Net's 96"):
        other.check(pipeline.base.unet)
    first = next(iter(instantid.control))
    with pytest.raises(ValueError, match=f"IdentityNet lacks {first}"):
        replace(instantid, control={n: t for n, t in instantid.control.items() if n != first}).identity_net()


def test_a_pickle_is_refused_unread(instantid: InstantID, tmp_path: Path) -> None:
    write_instantid(tmp_path, instantid)
    (tmp_path / ADAPTER).rename(tmp_path / "ip-adapter.bin")
    with pytest.raises(ValueError, match=r"ip-adapter\.bin is a pickle, which is not read.* by the command in docs"):
        read_instantid(tmp_path)
    (tmp_path / "ip-adapter.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"ip-adapter\.safetensors"):
        read_instantid(tmp_path)
    write_instantid(tmp_path, instantid)
    (tmp_path / CONTROL / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*config\.json"):
        read_instantid(tmp_path)


@pytest.mark.parametrize(("size", "radius"), [(1024, 10), (128, 2)])
def test_keypoints(size: int, radius: int) -> None:
    """Discs of full color over lines of 60 %, nothing else, as thick as the picture is large."""
    points = KEYPOINTS * size / 128
    picture = keypoint_image(points, size)
    for (x, y), color in zip(points.astype(int), COLORS, strict=True):
        assert tuple(picture[y, x]) == color
        assert tuple(picture[y, x - radius]) == color
        assert tuple(picture[y, x - radius - 2]) != color
    middle = ((points[0] + points[2]) / 2).astype(int)
    assert tuple(picture[middle[1], middle[0]]) == (153, 0, 0)
    allowed = {(0, 0, 0), *COLORS, *(tuple(int(0.6 * value) for value in color) for color in COLORS)}
    assert {tuple(color) for color in picture.reshape(-1, 3).tolist()} <= allowed
    assert picture[points[2].astype(int)[1] + 3 * radius, 5].sum() == 0


def test_the_configuration_is_plain_json(instantid: InstantID, tmp_path: Path) -> None:
    write_instantid(tmp_path, instantid)
    assert json.loads((tmp_path / CONTROL / "config.json").read_text())["_class_name"] == "ControlNetModel"
