"""The denoiser: a diffusion transformer over LoRA latents with adaLN-Zero, predicting the clean latent (x0).

Known from the paper: 16 layers, width 1454, AdaLN, x0. 1454 = 2 × 727, so a head can't be a round fraction of the
width: here the attention's inner width is heads × head_width, whatever the model's width. Tokens, heads and MLP ratio
are our choice.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DiTConfig:
    """tokens × latent_width: the LAE's latent. width, layers: of the transformer. condition_width: MIF's."""

    tokens: int = 18
    latent_width: int = 16
    width: int = 160
    layers: int = 4
    heads: int = 5
    head_width: int = 32
    mlp_ratio: float = 4.0
    condition_width: int = 256


PAPER = DiTConfig(tokens=160, latent_width=128, width=1454, layers=16, heads=23, head_width=64, condition_width=1454)


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoids of timesteps (batch,) in 0…999: (batch, width) float32, periods from 2π to 20000π."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000.0) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    )
    angles = timesteps.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width - 2 * half))


class Attention(nn.Module):
    """Multi-head self-attention with RMS-normalised queries and keys; inner width heads × head_width."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * heads * head_width)
        self.norm_q, self.norm_k = nn.RMSNorm(head_width, eps=1e-6), nn.RMSNorm(head_width, eps=1e-6)
        self.to_out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width), both ways
        q, k, v = rearrange(self.to_qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        out = F.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v)
        return self.to_out(rearrange(out, "b h t d -> b t (h d)"))


class Block(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.norm_attention = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(config.width, config.heads, config.head_width)
        self.norm_mlp = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, config.width)
        )
        self.modulation = nn.Linear(config.width, 6 * config.width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (batch, tokens, width); condition: (batch, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate_a * self.attention(self.norm_attention(x) * (1 + scale_a) + shift_a)
        return x + gate_m * self.mlp(self.norm_mlp(x) * (1 + scale_m) + shift_m)


class DiT(nn.Module):
    """Noisy latents, timesteps and condition → clean latents."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.latent_width, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))
        self.embed_time = nn.Sequential(nn.Linear(256, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.embed_condition = nn.Linear(config.condition_width, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.modulation_out = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.latent_width)
        self._initialise_weights()

    def _initialise_weights(self) -> None:
        """Zero the gates, so that every block starts as the identity, and the output, so that training starts at the
        mean LoRA (latents are standardised: zero is the average person)."""
        modulations = [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in (*modulations, self.modulation_out, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """noisy: (batch, tokens, latent_width). timesteps: (batch,). condition: (batch, condition_width)."""
        if noisy.shape[1:] != (self.config.tokens, self.config.latent_width):
            raise ValueError(
                f"The DiT denoises latents (batch, {self.config.tokens}, {self.config.latent_width}), "
                f"found {tuple(noisy.shape)}."
            )
        time = self.embed_time(timestep_embedding(timesteps, 256).to(noisy.dtype))
        modulation = F.silu(time + self.embed_condition(condition))
        x = self.embed(noisy) + self.position
        for block in self.blocks:
            x = block(x, modulation)
        shift, scale = self.modulation_out(modulation).unsqueeze(1).chunk(2, dim=-1)
        return self.out(self.norm_out(x) * (1 + scale) + shift)
