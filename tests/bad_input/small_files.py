"""A layout of one module, and a whole checkpoint of it, to be damaged."""

from pathlib import Path

import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.model import DiffLoRA

LAYOUT = LoRALayout((LoRAModule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),), rank=2)


def write_checkpoint(path: Path) -> None:
    config = DiffLoRAConfig(
        LAEConfig(tokens=3, width=2, chunk=8, channels=6, hidden=8),
        DiTConfig(tokens=3, latent_width=2, width=16, layers=1, heads=2, head_width=8, condition_width=10),
        MIFConfig(face_width=6, image_width=5, width=10),
        EncoderNames("a", "b"),
    )
    model = DiffLoRA(LAYOUT, config)
    model.lae.fit(torch.randn(8, LAYOUT.numel, generator=torch.Generator().manual_seed(0)))
    model.save(path)
