"""Modules and transformer blocks as tokens."""

import pytest

from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.lora.tokens import tokens_of


@pytest.fixture(scope="module")
def sdxl() -> LoRALayout:
    return LoRALayout.from_config(None, 4)


def test_tokens_are_modules_in_their_blocks(sdxl):
    tokens = tokens_of(sdxl, "module")
    assert len(tokens.sizes) == 560
    assert len(set(tokens.sizes)) == 4
    assert max(tokens.types) + 1 == 8  # q, k, v, out of self- and cross-attention
    assert max(tokens.depths) + 1 == 70
    assert list(tokens.depths) == sorted(tokens.depths)


def test_tokens_are_blocks(sdxl):
    tokens = tokens_of(sdxl, "block")
    assert len(tokens.sizes) == 70
    assert sum(sum(token) for token in tokens.sizes) == sdxl.numel
    assert len(set(tokens.sizes)) == 2  # 640 and 1280 channels
    assert (set(tokens.types), tokens.depths) == ({0}, tuple(range(70)))


def test_types_and_depths_follow_the_layout():
    names = (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
    )
    layout = LoRALayout(tuple(LoRAModule(name, 2, 2) for name in names), 1)
    tokens = tokens_of(layout)
    assert (tokens.types, tokens.depths) == ((0, 1, 0, 1), (0, 0, 1, 2))
    tokens = tokens_of(layout, "block")
    assert tokens.types == (0, 1, 2)  # other modules in each
    assert tokens.depths == (0, 1, 2)
