"""A tiny layout: two modules of two shapes, rank 2."""

import pytest
import torch

from difflora_core.lora.layout import LoRALayout, LoRAModule


@pytest.fixture
def layout() -> LoRALayout:
    return LoRALayout(
        (
            LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),
            LoRAModule("mid_block.attentions.0.transformer_blocks.0.ff.net.2", 3, 5),
        ),
        rank=2,
    )


@pytest.fixture
def loras(layout) -> torch.Tensor:
    """Forty random LoRAs of the tiny layout (40, numel)."""
    return torch.randn(40, layout.numel, generator=torch.Generator().manual_seed(0))
