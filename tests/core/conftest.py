"""A tiny layout of two modules of two shapes at rank 2, LoRAs of it, and a tiny model for it."""

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig, SamplingConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.model import DiffLoRA


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


@pytest.fixture
def config() -> DiffLoRAConfig:
    return DiffLoRAConfig(
        LAEConfig(tokens=3, width=2, chunk=8, channels=6, hidden=8),
        DiTConfig(tokens=3, latent_width=2, width=16, layers=1, heads=2, head_width=8, condition_width=10),
        MIFConfig(face_width=6, image_width=5, width=10),
        EncoderNames("a", "b"),
        SamplingConfig(steps=3, samples=2, latent_scale=1.25),
        {"people": 40},
    )


@pytest.fixture
def model(layout, loras, config) -> DiffLoRA:
    """A model whose LAE is fitted and whose DiT predicts something."""
    torch.manual_seed(0)
    model = DiffLoRA(layout, config)
    model.lae.fit(loras)
    torch.nn.init.normal_(model.dit.out.weight)
    return model.eval().requires_grad_(False)
