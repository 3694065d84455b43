"""A LoRA that was made here: a dict for ComfyUI, and a file that says what made it."""

import json

import pytest
import torch

from difflora_core.files import read_tensors
from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.lora import METADATA_KEY, LoRA, kohya_metadata


@pytest.mark.parametrize("form", ["kohya", "peft", "diffusers"])
def test_it_saves_itself(tmp_path, layout, loras, form):
    LoRA(loras[0], layout, {"seed": 3}).save(tmp_path / "p.safetensors", format=form)
    assert torch.equal(read_lora(tmp_path / "p.safetensors", layout), loras[0])
    metadata = read_tensors(tmp_path / "p.safetensors")[1]
    assert json.loads(metadata[METADATA_KEY]) == {"seed": 3}
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "2.0")
    assert not list(tmp_path.glob(".*"))


def test_diffusers_is_another_name_of_peft(layout, loras):
    lora = LoRA(loras[0], layout)
    assert list(lora.state_dict("diffusers")) == list(lora.state_dict("peft"))
    assert next(iter(lora.state_dict("diffusers"))).endswith("lora_A.weight")


def test_it_is_a_dict_of_tensors_under_kohya_names(layout, loras):
    lora = LoRA(loras[0], layout)
    assert isinstance(lora, dict)
    assert len(lora) == 3 * len(layout.modules)
    assert all(name.startswith("lora_unet_") for name in lora)
    assert lora.state_dict().keys() == lora.keys()


def test_the_flat_vector_follows_the_tensors(layout, loras):
    lora = LoRA(loras[0], layout)
    assert torch.equal(lora.flat, loras[0])
    for name in lora:
        if name.endswith("lora_up.weight"):
            lora[name] = 2 * lora[name]
    changed = layout.unflatten(lora.flat)
    for name, (down, up) in layout.unflatten(loras[0]).items():
        assert torch.equal(changed[name][0], down)
        assert torch.equal(changed[name][1], 2 * up)


def test_metadata_has_a_rank_only_where_all_modules_share_one():
    state = {"a.lora_down.weight": torch.zeros(2, 3), "b.lora_down.weight": torch.zeros(4, 3)}
    assert "ss_network_dim" not in kohya_metadata(state)


@pytest.mark.parametrize(
    ("alphas", "expected"),
    [({}, "2.0"), ({"a": torch.tensor(1.0), "b": 1.0}, "1.0"), ({"a": 1.0}, None), ({"a": 1.0, "b": 2.0}, None)],
    ids=["none", "one", "of one module", "several"],
)
def test_metadata_has_the_alpha_that_all_modules_share(alphas, expected):
    state = {f"{name}.lora_down.weight": torch.zeros(2, 3) for name in "ab"}
    found = kohya_metadata(state | {f"{name}.alpha": alpha for name, alpha in alphas.items()})
    assert found.get("ss_network_alpha") == expected
    assert found["ss_network_dim"] == "2"


def test_another_length_is_refused(layout):
    with pytest.raises(ValueError, match=r"has \d+ weights"):
        LoRA(torch.zeros(7), layout)
