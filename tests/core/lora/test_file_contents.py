"""Every tensor of a LoRA file is known under any naming: used, counted, or refused with its name."""

import re

import pytest
import torch
from torch import Tensor

from difflora_core.lora.file_contents import read_contents
from difflora_core.lora.file_formats import lora_state_dict, read_lora
from difflora_core.lora.layout import LoRALayout
from tests.core.lora.programs import kohya, layout_of


@pytest.mark.parametrize("adapter", ["default", "anna"])
def test_names_with_an_adapters_name(tmp_path, adapter):
    layout = layout_of()
    flat = torch.randn(layout.numel, generator=torch.Generator().manual_seed(0))
    state = lora_state_dict(flat, layout, "peft")
    named = {re.sub(r"\.(lora_[AB])\.", rf".\1.{adapter}.", key): tensor for key, tensor in state.items()}
    assert torch.equal(read_lora(named, layout), flat)
    two = named | {key.replace(adapter, "other"): tensor for key, tensor in named.items()}
    with pytest.raises(ValueError, match=f"several adapters of PEFT \\({adapter}, other\\)"):
        read_lora(two, layout)


def diffusers_of_2023(lora: str, flat: Tensor, layout: LoRALayout) -> dict[str, Tensor]:
    """Name the factors as diffusers' files of 2023; `lora` stands between a layer's name and `.down.weight`."""
    state: dict[str, Tensor] = {}
    for name, (down, up) in layout.unflatten(flat).items():
        layer = f"unet.{name.removesuffix('.0').replace('.to_', '.processor.to_')}{lora}"
        state |= {f"{layer}.down.weight": down, f"{layer}.up.weight": up}
    return state


@pytest.mark.parametrize("lora", ["_lora", ".lora"])
@pytest.mark.parametrize("alpha", [None, "", "_lora", ".lora"])
def test_diffusers_of_2023(lora, alpha):
    layout = layout_of()
    flat = torch.randn(layout.numel, generator=torch.Generator().manual_seed(0))
    state = diffusers_of_2023(lora, flat, layout)
    assert all(".processor.to_" in key for key in state)
    if alpha is None:
        assert torch.equal(read_lora(state, layout), flat)
        return
    layers = {key.removesuffix(f"{lora}.down.weight") for key in state if ".down." in key}
    read = read_contents(state | {f"{layer}{alpha}.alpha": torch.tensor(1.0) for layer in layers}, layout)
    assert not read.other_layers
    for name, (down, up) in layout.unflatten(flat).items():
        assert torch.equal(read.factors[name][0], down)
        assert torch.equal(read.factors[name][1], up / layout.rank)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_"])
def test_ldm_names_of_any_number_of_layers_per_block(layers, prefix):
    layout = layout_of(layers)
    flat = torch.randn(layout.numel, generator=torch.Generator().manual_seed(0))
    state = {}
    for name, (down, up) in layout.unflatten(flat).items():
        ldm = layout.base.ldm_name(name, layers)  # type: ignore[attr-defined]
        base = prefix + (ldm.replace(".", "_") if prefix.endswith("_") else ldm)
        state |= {f"{base}.lora_down.weight": down[..., None, None], f"{base}.lora_up.weight": up[..., None, None]}
    assert torch.equal(read_lora(state, layout), flat)


FIRST = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{FIRST}.lora_mid.weight": torch.ones(4, 4, 1, 1)}, "middle one of a convolution's three factors"),
        ({f"{FIRST}.diff": torch.ones(32, 32)}, "is a whole difference of weights"),
        ({f"{FIRST}.diff_b": torch.ones(32)}, "changes a bias"),
        ({f"{FIRST}.dora_scale": torch.ones(32, 1)}, "belongs to DoRA"),
        ({f"{FIRST}.hada_w1_a": torch.ones(32, 4)}, "belongs to LoHa"),
        ({f"{FIRST}.lokr_w1": torch.ones(4, 4)}, "belongs to LoKr"),
        ({f"{FIRST}.oft_blocks": torch.ones(4, 8, 8)}, "belongs to OFT"),
        ({f"{FIRST}.scalar": torch.ones(())}, "1 unknown tensors .*scalar; none can be left out"),
        ({"id_encoder.weight": torch.ones(3)}, r"1 unknown tensors .*id_encoder"),
        ({"lora_unet_conv_in.lora_down.weight": torch.ones(4, 4, 3, 3)}, "down factor but no up factor for lora_unet"),
        ({"lora_unet_conv_in.alpha": torch.tensor(1.0)}, "only an alpha for lora_unet_conv_in; the file is damaged"),
        (
            {f"{FIRST}.lora.alpha": torch.tensor(1.0)},
            r"holds .*to_q twice, as .*to_q\.alpha and as .*to_q\.lora\.alpha",
        ),
        ({f"{FIRST}.alpha": torch.ones(2)}, r"alpha is one number, found a tensor of shape \(2,\)"),
        ({f"unet.{FIRST[10:]}.lora_up.weight": torch.ones(3)}, "1 unknown tensors"),
        ({f"{FIRST}.lora_up.weight": torch.ones(32, 4, dtype=torch.complex64)}, "complex64, expected real"),
        ({f"{FIRST}.lora_up.weight": torch.ones(32, 4, dtype=torch.int8)}, "int8, expected real"),
        ({f"{FIRST}.lora_down.weight": torch.tensor(1.0)}, r"has shape \(\), expected"),
        ({f"{FIRST}.lora_up.weight": torch.ones(32, 4) / 0}, "NaN or infinite values, first in down_blocks"),
        ({"lora_unet_conv_in.diff": torch.ones(3) / 0}, "NaN or infinite values, first in lora_unet_conv_in"),
        ({f"lora_unet_conv_in.lora_{role}.weight": torch.ones(3) for role in ("up", "down")}, "do not fit one another"),
        ({f"{FIRST}.lora_B.weight": torch.ones(32, 4)}, "holds .* twice, as"),
    ],
    ids=lambda value: next(iter(value)).rpartition(".")[2] if isinstance(value, dict) else "",
)
def test_what_is_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        read_contents(kohya() | tensors, layout_of())


def test_a_lora_of_the_text_encoders_alone():
    with pytest.raises(ValueError, match=r"changes text encoders only \(2 tensors, first lora_te1_"):
        read_contents({f"lora_te1_x.lora_{role}.weight": torch.ones(2, 2) for role in ("up", "down")}, layout_of())


def test_text_encoders_and_bundled_embeddings_are_counted():
    text = {"lora_te2_x.lora_up.weight": torch.ones(2), "bundle_emb.anna.clip_l": torch.ones(3, 4)}
    assert read_contents(kohya() | text, layout_of()).text_encoder == tuple(text)
    with pytest.raises(ValueError, match=r"2 tensors outside .* 2 tensors of text encoders\), first lora_te2_x"):
        read_lora(kohya() | text, layout_of())


def test_alphas_may_be_plain_numbers_or_one_tensor(tmp_path):
    state, shared = kohya(), torch.tensor(2.0)
    plain = {key: 2.0 if key.endswith(".alpha") else tensor for key, tensor in state.items()}
    one = {key: shared if key.endswith(".alpha") else tensor for key, tensor in state.items()}
    assert torch.equal(read_lora(plain, layout_of()), read_lora(one, layout_of()))
