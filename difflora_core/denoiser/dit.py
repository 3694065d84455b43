"""The denoiser: a diffusion transformer over LoRA latents with adaLN-Zero that predicts the clean latent (x0).

Known from the paper: 16 layers, width 1454, AdaLN, x0. 1454 = 2 × 727, so a head can't be a round fraction of the
width: here the attention's inner width is heads × head_width, whatever the model's width. Tokens, heads, MLP ratio and
the embeddings of what a token stands for are our choice.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .config import DiTConfig
from .padded_linear import PaddedLinear

TIME_WIDTH = 256
"""Width of the sinusoids of a timestep."""


def parameter_count(config: DiTConfig) -> int:
    """Count the parameters of a DiT exactly, without allocating it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DiT(config).parameters())


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Compute sinusoids of timesteps (batch,) in 0…999: (batch, width) float32, periods from 2π to nearly 20000π."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000.0) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    )
    angles = timesteps.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width - 2 * half))


class RMSNorm(nn.RMSNorm):
    """RMS norm with its weight in the input's dtype: torch has a fused kernel only for equal dtypes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (…, width) by its root mean square, which is computed in float32; the dtype stays."""
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Multi-head self-attention with RMS-normalized queries and keys; inner width heads × head_width."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = PaddedLinear(width, 3 * heads * head_width)
        self.norm_q, self.norm_k = RMSNorm(head_width, eps=1e-6), RMSNorm(head_width, eps=1e-6)
        self.to_out = PaddedLinear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, tokens, width) to the same shape."""
        q, k, v = rearrange(self.to_qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v)
        out: Tensor = self.to_out(rearrange(attended, "b h t d -> b t (h d)"))
        return out


class Block(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.norm_attention = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(config.width, config.heads, config.head_width)
        self.norm_mlp = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(
            PaddedLinear(config.width, hidden, keep_padding=True),  # GELU(0) = 0
            nn.GELU(approximate="tanh"),
            PaddedLinear(hidden, config.width),
        )
        # Not padded: it has a row per condition, so that padding its weights would cost what it saves
        self.modulation = nn.Linear(config.width, 6 * config.width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens (batch · copies, tokens, width) to the same shape, by conditions (batch, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulations(self.modulation, condition, 6, len(x))
        x = x + gate_a * self.attention(self.norm_attention(x) * (1 + scale_a) + shift_a)
        out: Tensor = x + gate_m * self.mlp(self.norm_mlp(x) * (1 + scale_m) + shift_m)
        return out


def modulations(layer: nn.Module, condition: Tensor, count: int, rows: int) -> tuple[Tensor, ...]:
    """Compute `count` modulations (rows, 1, width) from conditions (batch, width), each for rows / batch rows."""
    made: Tensor = layer(condition)  # (batch, count · width)
    if rows != len(condition):
        made = made.repeat_interleave(rows // len(condition), dim=0)
    parts: tuple[Tensor, ...] = made.unflatten(-1, (count, 1, -1)).unbind(1)
    return parts


class DiT(nn.Module):
    """Noisy latents, timesteps and conditions → clean latents."""

    token_types: Tensor
    token_depths: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        """While gradients are recorded, blocks keep nothing but their input and run again in the backward pass: less
        memory, about a third more time."""
        self.embed = nn.Linear(config.latent_width, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))
        self.embed_time = nn.Sequential(
            nn.Linear(TIME_WIDTH, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.embed_condition = nn.Linear(config.condition_width, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.modulation_out = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.latent_width)
        self.embed_type = self._embedding(config.token_types)
        self.embed_depth = self._embedding(config.token_depths)
        for name in ("token_types", "token_depths"):
            # On the CPU even where the rest is made on the meta device: no file has them
            indices = torch.tensor(getattr(config, name), dtype=torch.long, device="cpu")
            self.register_buffer(name, indices, persistent=False)
        self._initialize_weights()

    def _embedding(self, indices: Sequence[int]) -> nn.Embedding | None:
        return nn.Embedding(max(indices) + 1, self.config.width) if indices else None

    def _initialize_weights(self) -> None:
        """Zero the gates and the output.

        Every block starts as the identity, and training starts at the mean LoRA: latents are standardized, zero is the
        average person.
        """
        layers = [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in (*layers, self.modulation_out, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for embedding in (self.embed_type, self.embed_depth):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)

    def compile_blocks(self, **options: object) -> None:
        """Compile every block by torch.compile, in place: names in the state dict stay.

        Blocks are alike, so one of them is compiled for all: minutes less than compiling the whole network.

        Args:
            options: Those of `torch.compile`.
        """
        for block in self.blocks:
            block.compile(**options)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Predict x0.

        Latents that share a condition stand side by side, equally many for each: the modulation layers, a third of the
        weights, then run once per condition.

        Args:
            noisy: Latents (batch · copies, tokens, latent_width), cast to the network's dtype.
            timesteps: (batch,).
            condition: (batch, condition_width), cast to the network's dtype.

        Returns:
            Latents of the shape of `noisy`.

        Raises:
            ValueError: Latents or conditions are of another model; the shape is named.
        """
        self._check(noisy, condition)
        dtype = self.embed.weight.dtype
        modulation = self.modulation_input(timesteps, condition)
        x = self.embed(noisy.to(dtype)) + self._token_embeddings()
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, use_reentrant=False)
            else:
                x = block(x, modulation)
        shift, scale = modulations(self.modulation_out, modulation, 2, len(x))
        clean: Tensor = self.out(self.norm_out(x) * (1 + scale) + shift)
        return clean

    def modulation_input(self, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Compute what modulates all layers, (batch, width), from timesteps (batch,) and conditions."""
        dtype = self.embed.weight.dtype
        time = self.embed_time(timestep_embedding(timesteps, TIME_WIDTH).to(dtype))
        return F.silu(time + self.embed_condition(condition.to(dtype)))

    def _check(self, noisy: Tensor, condition: Tensor) -> None:
        config = self.config
        if noisy.shape[1:] != (config.tokens, config.latent_width):
            raise ValueError(
                f"The DiT denoises latents (batch, {config.tokens}, {config.latent_width}), found {tuple(noisy.shape)}."
            )
        if condition.ndim != 2 or condition.shape[1] != config.condition_width:
            raise ValueError(
                f"The DiT takes conditions (batch, {config.condition_width}), found {tuple(condition.shape)}: "
                "they are of another checkpoint's MIF."
            )
        if len(noisy) % len(condition):
            raise ValueError(
                f"Latents share conditions evenly, found {len(noisy)} latents, {len(condition)} conditions."
            )

    def _token_embeddings(self) -> Tensor:
        """Sum what the network learned of each token's position, type and depth: (tokens, width)."""
        embeddings: Tensor = self.position
        if self.embed_type is not None:
            embeddings = embeddings + self.embed_type(self.token_types)
        if self.embed_depth is not None:
            embeddings = embeddings + self.embed_depth(self.token_depths)
        return embeddings
