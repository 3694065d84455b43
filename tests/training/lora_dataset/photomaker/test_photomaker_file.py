"""PhotoMaker's file: layout, refusals, and its LoRA in the U-Net."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.base_model.config import LATENT_SHAPE
from miniature.encoders.photomaker import initial_encoder
from miniature.paths import WEIGHTS
from training.base_model.batched_loras import stacked_loras
from training.lora_dataset.photomaker.identity_encoder import IdEncoder
from training.lora_dataset.photomaker.photomaker_file import (
    merge_lora,
    official_lora_names,
    read_photomaker,
    read_unet_lora,
    write_photomaker,
)


@pytest.fixture(scope="module")
def encoder() -> IdEncoder:
    return initial_encoder(WEIGHTS).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def layout() -> LoRALayout:
    return LoRALayout.from_config(base_config.UNET, 2)


@pytest.fixture(scope="module")
def lora(layout: LoRALayout) -> Tensor:
    return 0.1 * torch.randn(layout.numel, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**base_config.UNET).eval().requires_grad_(False)


def content(encoder: IdEncoder) -> dict[str, dict[str, Tensor]]:
    """What a valid `.bin` holds, which a test then breaks."""
    return {"id_encoder": dict(encoder.state_dict()), "lora_weights": {}}


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_file_gives_the_same_encoder_and_lora(
    encoder: IdEncoder, layout: LoRALayout, lora: Tensor, tmp_path: Path, ending: str
) -> None:
    path, named = tmp_path / f"photomaker.{ending}", official_lora_names(lora, layout)
    if ending == "bin":
        write_photomaker(path, encoder, named)
    else:
        parts = {"id_encoder": encoder.state_dict(), "lora_weights": named}
        save_file({f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}, path)
    found = read_photomaker(path)
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.encoder.embed(pixels), encoder.embed(pixels))
    assert found.lora.keys() == named.keys()


def test_constant_of_older_files_is_ignored(encoder: IdEncoder, tmp_path: Path) -> None:
    broken = content(encoder)
    broken["id_encoder"]["vision_model.embeddings.position_ids"] = torch.arange(65)[None]
    torch.save(broken, tmp_path / "old.bin")
    assert read_photomaker(tmp_path / "old.bin").encoder.size == 128


def _v2(parts: dict[str, Any]) -> Any:
    parts["id_encoder"]["qformer_perceiver.token_proj.0.weight"] = torch.zeros(2, 2)
    return parts


def _missing(parts: dict[str, Any]) -> Any:
    del parts["id_encoder"]["fuse_module.mlp2.fc1.bias"]
    return parts


def _unknown(parts: dict[str, Any]) -> Any:
    parts["id_encoder"]["extra.weight"] = torch.zeros(1)
    return parts


def _shape(parts: dict[str, Any]) -> Any:
    parts["id_encoder"]["fuse_module.layer_norm.weight"] = torch.zeros(5)
    return parts


def _nan(parts: dict[str, Any]) -> Any:
    parts["id_encoder"]["fuse_module.layer_norm.weight"] = torch.full((96,), float("nan"))
    return parts


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_v2, r"v2 \(it holds qformer_perceiver.token_proj.0.weight\)"),
        (_missing, "1 tensors .* missing, first fuse_module.mlp2.fc1.bias"),
        (_unknown, "1 tensors .* unknown, first extra.weight"),
        (_shape, r"fuse_module.layer_norm.weight .* is \(5,\), expected \(96,\)"),
        (_nan, "fuse_module.layer_norm.weight .* NaN"),
        (lambda parts: {"id_encoder": parts["id_encoder"]}, "holds id_encoder, expected id_encoder and lora_weights"),
        (lambda parts: parts["id_encoder"], "it holds fuse_module.*expected id_encoder and lora_weights"),
        (lambda parts: [torch.zeros(1)], "it holds list"),
        (lambda parts: parts | {"lora_weights": [1]}, "lora_weights is not a dictionary of tensors"),
        (lambda parts: parts | {"id_encoder": {"a": torch.zeros(1)}}, "lacks vision_model.*its first tensor is 'a'"),
    ],
)
def test_other_files_are_refused(
    encoder: IdEncoder, tmp_path: Path, break_it: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "other.bin"
    torch.save(break_it(content(encoder)), path)
    with pytest.raises(ValueError, match=message):
        read_photomaker(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04 and no archive", "damaged"),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "photomaker.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_photomaker(path)


class _Code:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(encoder: IdEncoder, tmp_path: Path) -> None:
    path, folder = tmp_path / "evil.bin", tmp_path / "made_by_code"
    torch.save({**content(encoder), "extra": _Code(folder)}, path)
    with pytest.raises(ValueError, match="more than tensors"):
        read_photomaker(path)
    assert not folder.exists()


def test_lora_survives_the_official_names(layout: LoRALayout, lora: Tensor, unet: Any) -> None:
    named = official_lora_names(lora, layout)
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight" in named
    found, flat = read_unet_lora(named, unet)
    assert found.difference(layout) is None
    torch.testing.assert_close(flat, lora)


def test_lora_of_another_unet_is_refused(layout: LoRALayout, lora: Tensor, unet: Any) -> None:
    named = {name: tensor for name, tensor in official_lora_names(lora, layout).items() if "mid_block" not in name}
    with pytest.raises(ValueError, match=r"does not fit the base model's U-Net.*first mid_block"):
        read_unet_lora(named, unet)


def test_lora_without_factors_is_refused(unet: Any) -> None:
    with pytest.raises(ValueError, match="no down factor"):
        read_unet_lora({"something.weight": torch.zeros(2, 2)}, unet)


def test_merged_lora_does_what_a_branch_does(layout: LoRALayout, lora: Tensor, unet: Any) -> None:
    generator = torch.Generator().manual_seed(6)
    inputs = (torch.randn(1, *LATENT_SHAPE, generator=generator), torch.tensor([500]))
    added = {"text_embeds": torch.randn(1, 64, generator=generator), "time_ids": torch.zeros(1, 6)}
    keywords = {"encoder_hidden_states": torch.randn(1, 77, 96, generator=generator), "added_cond_kwargs": added}
    before = unet(*inputs, **keywords).sample
    with stacked_loras(unet, layout, lora[None]):
        expected = unet(*inputs, **keywords).sample
    merge_lora(unet, layout, lora)
    merged = unet(*inputs, **keywords).sample
    merge_lora(unet, layout, lora, strength=-1.0)
    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(unet(*inputs, **keywords).sample, before, rtol=1e-3, atol=1e-5)
    assert (merged - before).abs().max() > 0.01
