"""LoRA files in every naming, and what is refused."""

import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from difflora_core.lora.base_model import SDXL
from difflora_core.lora.file_formats import lora_state_dict, read_lora, save_lora, storable
from difflora_core.lora.layout import LoRALayout


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_file_round_trip(tmp_path, layout, loras, form):
    save_lora(tmp_path / "x.safetensors", loras[0], layout, format=form, metadata={"made by": "test"})
    assert torch.equal(read_lora(tmp_path / "x.safetensors", layout), loras[0])
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"made by": "test"}


def test_kohya_names_and_alpha(layout, loras):
    state = lora_state_dict(loras[0], layout)
    base = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    assert {f"{base}.lora_down.weight", f"{base}.lora_up.weight", f"{base}.alpha"} <= set(state)
    assert state[f"{base}.alpha"].shape == ()
    assert state[f"{base}.alpha"] == layout.rank
    storages = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert len(storages) == len(state)


def test_ldm_names_are_read(layout, loras):
    factors = layout.unflatten(loras[0])
    state = {}
    for name, (down, up) in factors.items():
        state[f"diffusion_model.{SDXL().ldm_name(name)}.lora_down.weight"] = down
        state[f"diffusion_model.{SDXL().ldm_name(name)}.lora_up.weight"] = up
    assert SDXL().ldm_name(layout.names[0]).startswith("input_blocks.4.1.")
    assert torch.equal(read_lora(state, layout), loras[0])


def test_alpha_over_rank_is_folded_into_up(layout, loras):
    state = lora_state_dict(loras[0], layout)
    state = {key: torch.tensor(1.0) if key.endswith("alpha") else value for key, value in state.items()}
    read = layout.unflatten(read_lora(state, layout))
    for name, (down, up) in layout.unflatten(loras[0]).items():
        assert torch.equal(read[name][0], down)
        assert torch.equal(read[name][1], up * 0.5)


def _without(state: dict, part: str) -> dict:
    return {key: value for key, value in state.items() if part not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "mid_block"), "lacks 1 of 2 modules, first mid_block"),
        (lambda s: _without(s, "attn1_to_q.lora_down"), "an up factor but no down factor"),
        (lambda s: {**s, "lora_te1_text_model.lora_up.weight": torch.zeros(1)}, "1 tensors outside"),
        (lambda s: {}, "it is empty"),
        (lambda s: {k: v * float("nan") for k, v in s.items()}, "NaN or infinite"),
        (lambda s: {k: v.mT if "lora_down" in k else v for k, v in s.items()}, r"shape \(6, 2\), expected \(2, 6\)"),
    ],
    ids=["missing", "half", "foreign", "empty", "nan", "swapped"],
)
def test_what_does_not_fit_is_refused(layout, loras, change, message):
    with pytest.raises(ValueError, match=message):
        read_lora(change(lora_state_dict(loras[0], layout)), layout)


def test_another_rank_is_refused(layout, loras):
    other = LoRALayout(layout.modules, 3)
    state = lora_state_dict(torch.zeros(other.numel), other)
    with pytest.raises(ValueError, match=r"rank 3 in .*, expected rank 2"):
        read_lora(state, layout)


def test_truncated_file_is_named(tmp_path, layout, loras):
    path = tmp_path / "x.safetensors"
    save_lora(path, loras[0], layout)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_lora(path, layout)


def test_shared_and_plain_alphas_can_be_saved(tmp_path, layout, loras):
    state, shared = lora_state_dict(loras[0], layout), torch.tensor(1.0)
    alphas = [key for key in state if key.endswith("alpha")]
    for number, same in enumerate((shared, 1.0)):
        saved = storable(state | dict.fromkeys(alphas, same), torch.float32)
        save_file(saved, tmp_path / f"{number}.safetensors")
        found = read_lora(tmp_path / f"{number}.safetensors", layout)
        assert torch.equal(found, read_lora(state | dict.fromkeys(alphas, shared), layout))


def test_sizes_are_saved_as_whole_numbers():
    """ComfyUI makes a tensor of these sizes, which it can't of floats."""
    half = torch.ones(2, 1, dtype=torch.float16)
    saved = storable({"a.reshape_weight": torch.tensor([2, 9]), "a.alpha": 1, "a.lora_up.weight": half}, torch.float32)
    assert saved["a.reshape_weight"].tolist() == [2, 9]
    assert {name: saved[name].dtype for name in saved} == {
        "a.reshape_weight": torch.int64,
        "a.alpha": torch.float32,
        "a.lora_up.weight": torch.float32,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_what_is_not_finite_is_not_saved(tmp_path, layout, loras, value):
    state = lora_state_dict(loras[0].double(), layout)
    key = next(iter(state))
    state[key][...] = value
    with pytest.raises(ValueError, match=rf"NaN or infinite values, first in {re.escape(key)}; it is not saved"):
        storable(state, torch.float32)
    with pytest.raises(ValueError, match="complex numbers"):
        storable({key: state[key].to(torch.complex128)}, torch.float32)
    with pytest.raises(ValueError, match="it is not saved"):
        save_lora(tmp_path / "x.safetensors", loras[0] * float("nan"), layout)
    assert not list(tmp_path.iterdir())
