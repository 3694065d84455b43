"""Flat vectors and factors, and the layouts of real U-Nets."""

import pytest
import torch

from difflora_core.lora.layout import LoRALayout, LoRAModule
from miniature.base_model import config as base_config


def test_sdxl_has_560_attention_modules_and_1451520_weights_per_rank():
    layout = LoRALayout.from_config(None, rank=4)
    assert len(layout.modules) == 560
    assert layout.numel == 4 * 1_451_520
    shapes = {(m.in_features, m.out_features) for m in layout.modules}
    assert shapes == {(640, 640), (2048, 640), (1280, 1280), (2048, 1280)}


def test_miniature_has_attention_and_feed_forward_modules():
    layout = LoRALayout.from_config(base_config.UNET, rank=4, feed_forward=True)
    kinds = {m.name.split("transformer_blocks.0.")[1].split(".")[0] for m in layout.modules}
    assert kinds == {"attn1", "attn2", "ff"}
    assert len(layout.modules) == 70


def test_down_comes_before_up_row_by_row(layout):
    flat = torch.arange(layout.numel, dtype=torch.float32)
    down, up = layout.unflatten(flat)[layout.names[0]]
    assert down.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert up.tolist() == [[12, 13], [14, 15], [16, 17], [18, 19]]


def test_flatten_undoes_unflatten_for_any_batch(layout, loras):
    batch = loras.view(5, 8, -1)
    assert torch.equal(layout.flatten(layout.unflatten(batch)), batch)


def test_unflatten_gives_views(layout):
    flat = torch.zeros(layout.numel)
    layout.unflatten(flat)[layout.names[0]][0][0, 0] = 7.0
    assert flat[0] == 7.0


def test_description_round_trip(layout):
    assert LoRALayout.from_dict(layout.to_dict()) == layout


def test_difference_names_the_first_other_module(layout):
    other = LoRALayout((layout.modules[0], LoRAModule(layout.names[1], 3, 6)), 2)
    assert layout.difference(layout) is None
    assert layout.names[1] in str(layout.difference(other))
    assert "rank 3" in str(layout.difference(LoRALayout(layout.modules, 3)))


def test_a_base_model_that_is_not_known_asks_for_an_update(layout):
    with pytest.raises(ValueError, match=r"base model 'flux' is not among sdxl.*update DiffLoRA"):
        LoRALayout.from_dict(layout.to_dict() | {"base_model": "flux"})


def test_wrong_length_is_refused_with_both_numbers(layout):
    with pytest.raises(ValueError, match=rf"{layout.numel} weights.*found a tensor of shape \(7,\)"):
        layout.unflatten(torch.zeros(7))


def test_swapped_factor_of_equal_size_is_refused(layout):
    factors = layout.unflatten(torch.zeros(layout.numel))
    down, up = factors[layout.names[0]]
    with pytest.raises(ValueError, match="down of"):
        layout.flatten({**factors, layout.names[0]: (down.mT, up)})


@pytest.mark.parametrize("module", [["m", 3, "2"], ["m", 3, 0], ["m", 3, -2], ["m", 3.0, 2], ["m", True, 2], [3, 3, 2]])
def test_impossible_modules_are_refused(module):
    with pytest.raises(ValueError, match="module is a name and two widths of at least 1, found"):
        LoRALayout.from_dict({"rank": 2, "modules": [module]})
