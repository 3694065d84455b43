"""Shapes of the tests' networks."""

from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.engine.config import TrainConfig

DIT = DiTConfig(tokens=2, latent_width=2, width=32, layers=1, heads=2, head_width=16, condition_width=16)
MIF_CONFIG = MIFConfig(face_width=4, image_width=4, width=16)
LOOP = TrainConfig(steps=300, learning_rate=5e-3, warmup=20, ema=0.98)
LAYOUT = LoRALayout((LoRAModule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),), rank=2)
