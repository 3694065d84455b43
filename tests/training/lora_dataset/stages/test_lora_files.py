"""LoRA files of all kinds are read with the same ΔW, or refused with the reason."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from difflora_core.lora.file_formats import lora_state_dict, save_lora
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.lora_dataset.stages.lora_files import import_lora

LAYOUT = LoRALayout(
    (
        LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),
        LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 7, 5),
        LoRAModule("mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0", 6, 4),
    ),
    rank=2,
)


LORA = torch.randn(LAYOUT.numel, generator=torch.Generator().manual_seed(0))


def changes(flat: torch.Tensor, layout: LoRALayout = LAYOUT) -> torch.Tensor:
    """All ΔW in one vector."""
    return torch.cat([(up.double() @ down.double()).flatten() for down, up in layout.unflatten(flat).values()])


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


def of_rank(rank: int) -> dict[str, torch.Tensor]:
    """A kohya state dict of a random LoRA."""
    layout = LoRALayout(LAYOUT.modules, rank)
    flat = torch.randn(layout.numel, generator=torch.Generator().manual_seed(rank))
    return lora_state_dict(flat, layout)


def spread(rank: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """LORA, of rank 2, in factors of a higher rank without zeros."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, (down, up) in LAYOUT.unflatten(LORA.double()).items():
        mix = torch.linalg.qr(torch.randn(rank, 2, dtype=torch.float64, generator=generator))[0]
        base = f"lora_unet_{name.replace('.', '_')}"
        state[f"{base}.lora_down.weight"] = (mix @ down).to(dtype)
        state[f"{base}.lora_up.weight"] = (up @ mix.mT).to(dtype)
    return state


def write(folder: Path, state: dict[str, torch.Tensor], name: str = "lora") -> Path:
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_names_in_use(tmp_path, form):
    save_lora(tmp_path / "x.safetensors", LORA, LAYOUT, form)
    found = import_lora(tmp_path / "x.safetensors", LAYOUT)
    assert torch.equal(found.lora, LORA)
    assert (found.rank, found.lost_energy) == (2, 0.0)


def test_ldm_names(tmp_path):
    state = {}
    for name, (down, up) in LAYOUT.unflatten(LORA).items():
        base = next(
            known
            for known, module in next(LAYOUT.base.name_tables(LAYOUT.names)).items()
            if module == name and re.match("lora_unet_(input|middle)_block", known)
        )
        state |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
    assert torch.equal(import_lora(write(tmp_path, state), LAYOUT).lora, LORA)


def test_a_lower_rank_and_its_alpha(tmp_path):
    state = {key: value * 0.5 if key.endswith("alpha") else value for key, value in of_rank(1).items()}
    low = LoRALayout(LAYOUT.modules, 1)
    expected = 0.5 * changes(torch.randn(low.numel, generator=torch.Generator().manual_seed(1)), low)
    found = import_lora(write(tmp_path, state), LAYOUT)
    assert distance(changes(found.lora), expected) < 1e-6
    assert (found.rank, found.lost_energy) == (1, 0.0)


def test_modules_of_different_ranks(tmp_path):
    state, narrow = of_rank(2), of_rank(1)
    state |= {key: tensor for key, tensor in narrow.items() if "mid_block" in key}
    found = changes(import_lora(write(tmp_path, state), LAYOUT).lora)
    assert distance(found[:24], (state[key_of(0, "up")] @ state[key_of(0, "down")]).double().flatten()) < 1e-6
    assert distance(found[-24:], (narrow[key_of(2, "up")] @ narrow[key_of(2, "down")]).double().flatten()) < 1e-6


def key_of(module: int, role: str) -> str:
    return f"lora_unet_{LAYOUT.names[module].replace('.', '_')}.lora_{role}.weight"


def test_a_higher_rank_that_is_not_used_is_exact(tmp_path):
    found = import_lora(write(tmp_path, spread(4)), LAYOUT)
    assert found.rank == 4
    assert found.lost_energy < 1e-12
    assert distance(changes(found.lora), changes(LORA)) < 1e-6


def test_rounding_of_a_half_precision_file_is_no_rank(tmp_path):
    found = import_lora(write(tmp_path, spread(4, torch.float16)), LAYOUT)
    assert distance(changes(found.lora), changes(LORA)) < 1e-3


def test_too_high_a_rank_is_refused_with_what_it_would_lose(tmp_path):
    with pytest.raises(
        ValueError, match=r"rank 4 and the store rank 2, which would lose \d+\.\d+% of .* --approximate"
    ):
        import_lora(write(tmp_path, of_rank(4)), LAYOUT)


def test_the_best_approximation_if_asked_for(tmp_path):
    high = LoRALayout(LAYOUT.modules, 4)
    exact = changes(torch.randn(high.numel, generator=torch.Generator().manual_seed(4)), high)
    found = import_lora(write(tmp_path, of_rank(4)), LAYOUT, approximate=True)
    assert found.lost_energy == pytest.approx(distance(changes(found.lora), exact) ** 2, rel=1e-4)
    assert 0.01 < found.lost_energy < 0.5


@pytest.mark.parametrize("prefix", ["lora_te1_text_model_x.", "lora_te_x.", "text_encoder_2.text_model.x."])
def test_text_encoder_parts(tmp_path, prefix):
    state = of_rank(2) | {f"{prefix}lora_down.weight": torch.zeros(2, 3), f"{prefix}lora_up.weight": torch.zeros(3, 2)}
    path = write(tmp_path, state)
    with pytest.raises(ValueError, match=r"changes text encoders too \(2 tensors"):
        import_lora(path, LAYOUT)
    found = import_lora(path, LAYOUT, leave_out_text_encoder=True)
    assert found.text_tensors == 2
    assert found.lora.abs().sum() > 0


def test_layers_outside_the_layout_can_be_left_out_with_their_share(tmp_path):
    base = "lora_unet_down_blocks_1_attentions_0_proj_in"
    state = lora_state_dict(LORA, LAYOUT)
    down, up = torch.full((2, 3), 2.0), torch.full((5, 2), 3.0)
    extra = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(1.0)}
    path = write(tmp_path, state | extra)
    with pytest.raises(ValueError, match="outside the 3 modules"):
        import_lora(path, LAYOUT)
    found = import_lora(path, LAYOUT, leave_out_other_layers=True)
    outside, inside = float((0.5 * up @ down).square().sum()), float(changes(LORA).square().sum())
    assert torch.equal(found.lora, LORA)
    assert found.other_modules == 1
    assert found.other_energy == pytest.approx(outside / (outside + inside), rel=1e-5)


def test_another_base_is_refused_even_if_other_layers_may_be_left_out(tmp_path):
    state = {key.replace("mid_block", "mid_blocks"): tensor for key, tensor in of_rank(2).items()}
    with pytest.raises(ValueError, match=r"lacks 1 of 3 modules, first mid_block\."):
        import_lora(write(tmp_path, state), LAYOUT, leave_out_other_layers=True)


def _wider(state: dict) -> dict:
    return {key: tensor.repeat(1, 2) if "attn2_to_k.lora_down" in key else tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_wider, r"another base model.*down factor of .*attn2\.to_k has shape \(2, 14\), expected \(2, 7\)"),
        (
            lambda s: {k: t for k, t in s.items() if "mid_block" not in k},
            r"another base model.*lacks 1 of 3 modules, first mid_block",
        ),
        (lambda s: s | {"lora_unet_proj_in.lora_up.weight": torch.zeros(2, 2)}, r"outside the 3 modules.*proj_in"),
        (lambda s: {k: t * float("nan") for k, t in s.items()}, ": The LoRA holds NaN or infinite values, first in"),
        (lambda s: s | {"x.dora_scale": torch.zeros(2)}, "x.dora_scale belongs to DoRA, another method"),
        (lambda s: {"conv.weight": torch.zeros(3)}, r"No module of the layout.*conv\.weight"),
    ],
    ids=["width", "missing", "extra", "nan", "dora", "checkpoint"],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        import_lora(write(tmp_path, change(of_rank(2))), LAYOUT)


@pytest.mark.parametrize("key", [f"{key_of(0, 'up').rsplit('.', 2)[0]}.scalar", "id_encoder.weight"])
def test_unknown_tensors_are_refused_with_every_flag(tmp_path, key):
    path = write(tmp_path, of_rank(2) | {key: torch.ones(2)})
    with pytest.raises(ValueError, match=f"1 unknown tensors .*{re.escape(key)}; none can be left out"):
        import_lora(path, LAYOUT, approximate=True, leave_out_text_encoder=True, leave_out_other_layers=True)


def test_a_biased_convolution_outside_the_layout_is_counted(tmp_path):
    base = "lora_unet_down_blocks_1_resnets_0_conv1"
    extra = {
        f"{base}.lora_down.weight": torch.ones(2, 3, 1, 1),
        f"{base}.lora_mid.weight": torch.ones(2, 2, 3, 3),
        f"{base}.lora_up.weight": torch.ones(5, 2, 1, 1),
        f"{base}.diff_b": torch.full((5,), 2.0),
    }
    found = import_lora(write(tmp_path, of_rank(2) | extra), LAYOUT, leave_out_other_layers=True)
    outside = 5 * 3 * 9 * 4.0**2 + 5 * 2.0**2
    assert (found.other_modules, found.other_tensors) == (1, 4)
    assert found.other_energy == pytest.approx(outside / (outside + float(changes(found.lora).square().sum())))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (f"{key_of(0, 'up').rsplit('.', 2)[0]}.lora_magnitude_vector", "belongs to DoRA"),
        (f"{key_of(0, 'up').rsplit('.', 2)[0]}.dora_scale", "belongs to DoRA"),
        (f"{key_of(0, 'up').rsplit('.', 2)[0]}.lora_B.bias", "changes a bias"),
        (f"{key_of(0, 'up').rsplit('.', 2)[0]}.diff", "whole difference"),
        ("bundle_emb.anna.clip_l", "changes text encoders too"),
    ],
)
def test_leaving_out_other_layers_leaves_out_no_part_of_a_layer(tmp_path, key, message):
    with pytest.raises(ValueError, match=message):
        import_lora(write(tmp_path, of_rank(2) | {key: torch.ones(4)}), LAYOUT, leave_out_other_layers=True)
