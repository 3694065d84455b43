"""The denoiser: a diffusion transformer over LoRA latents with adaLN-Zero, predicting the clean latent (x0).

Known from the paper: 16 layers, width 1454, AdaLN, x0. 1454 = 2 × 727, so a head can't be a round fraction of the
width: here the attention's inner width is heads × head_width, whatever the model's width. Tokens, heads, MLP ratio and
the embeddings of what a token stands for are our choice.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..autoencoder.token import tokens_of
from ..lora.layout import LoRALayout

TIME_WIDTH = 256
MOST_AHEAD = 2**24  # modulations held ahead of the sampler, in numbers: 64 MiB in float32


@dataclass(frozen=True)
class DiTConfig:
    """tokens × latent_width: the LAE's latent. width, layers: of the transformer. condition_width: MIF's.

    token_types, token_depths: for each token the number of its kind and of its place in the U-Net, see `token_places`;
    each gets a learned embedding beside the position's. Empty, as for latents whose tokens mix all modules: none.
    """

    tokens: int = 18
    latent_width: int = 16
    width: int = 160
    layers: int = 4
    heads: int = 5
    head_width: int = 32
    mlp_ratio: float = 4.0
    condition_width: int = 256
    token_types: tuple[int, ...] = ()
    token_depths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("token_types", "token_depths"):
            numbers = tuple(getattr(self, name))  # a list when it comes from a checkpoint's JSON
            object.__setattr__(self, name, numbers)
            if numbers and (len(numbers) != self.tokens or min(numbers) < 0):
                raise ValueError(
                    f"The DiT's {name} are {self.tokens} numbers from 0 on, one for each token, or none; found "
                    f"{len(numbers)}, the smallest {min(numbers)}."
                )


PAPER = DiTConfig(tokens=160, latent_width=128, width=1454, layers=16, heads=23, head_width=64, condition_width=1454)
CONFIGURATIONS: dict[str, DiTConfig] = {
    "paper": PAPER,
    "small": DiTConfig(tokens=160, latent_width=128, width=512, layers=8, heads=8, head_width=64, condition_width=512),
    "miniature": DiTConfig(width=144),
}
"""By name. Layers and width of `paper` are the paper's; `small` fits a GPU of 24 GB beside much else."""


def parameter_count(config: DiTConfig) -> int:
    """Exact number of learned numbers of a DiT, counted without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DiT(config).parameters())


def token_places(
    layout: LoRALayout, token_of: Literal["module", "block"] = "module"
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """token_types and token_depths of latents with one token for each module, or for each transformer block.

    Tokens stand in the layout's order. Tokens of the same modules by name (attn1.to_q, …) have one type; the depth is
    the number of the block along the signal. The paper has nothing of the kind; after Text-to-LoRA (arXiv 2506.06105).
    """
    _, types, depths = tokens_of(layout, token_of)
    return tuple(types), tuple(depths)


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoids of timesteps (batch,) in 0…999: (batch, width) float32, periods from 2π to 20000π."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000.0) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    )
    angles = timesteps.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width - 2 * half))


class Attention(nn.Module):
    """Multi-head self-attention with RMS-normalized queries and keys; inner width heads × head_width."""

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

    def modulate(self, condition: Tensor) -> Tensor:
        """Condition (batch, width) → shift, scale and gate of attention and of the MLP (batch, 6, width)."""
        return self.modulation(condition).unflatten(-1, (6, -1))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x: (batch, tokens, width). modulation: the condition (batch, width), or what `modulate` makes of it."""
        if modulation.ndim == 2:
            modulation = self.modulate(modulation)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.unsqueeze(2).unbind(1)  # (batch, 1, width)
        x = x + gate_a * self.attention(self.norm_attention(x) * (1 + scale_a) + shift_a)
        return x + gate_m * self.mlp(self.norm_mlp(x) * (1 + scale_m) + shift_m)


class DiT(nn.Module):
    """Noisy latents, timesteps and condition → clean latents.

    gradient_checkpointing: while gradients are recorded, blocks keep nothing but their input and are run again in the
    backward pass: less memory, about a third more time.
    """

    token_types: Tensor
    token_depths: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
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
        self.register_buffer("token_types", torch.tensor(config.token_types, dtype=torch.long), persistent=False)
        self.register_buffer("token_depths", torch.tensor(config.token_depths, dtype=torch.long), persistent=False)
        self._initialize_weights()

    def _embedding(self, numbers: Sequence[int]) -> nn.Embedding | None:
        return nn.Embedding(max(numbers) + 1, self.config.width) if numbers else None

    def _initialize_weights(self) -> None:
        """Zero the gates, so that every block starts as the identity, and the output, so that training starts at the
        mean LoRA (latents are standardized: zero is the average person).
        """
        modulations = [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in (*modulations, self.modulation_out, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for embedding in (self.embed_type, self.embed_depth):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)

    def compile_blocks(self, **options: object) -> None:
        """torch.compile every block, in place: names in the state dict stay. options: see `torch.compile`.

        Blocks are alike, so one of them is compiled for all: minutes less than compiling the whole network.
        """
        for block in self.blocks:
            block.compile(**options)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Predict x0 (batch, tokens, latent_width).

        noisy: (batch, tokens, latent_width). timesteps: (batch,). condition: (batch, condition_width). Both are cast
        to the network's dtype. Raises ValueError naming the shape for latents or conditions of another model.
        """
        condition = self._mix(timesteps, condition)
        return self.denoise(noisy, [condition] * (len(self.blocks) + 1))

    def denoise(self, noisy: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """`forward` from one step of `modulations`, or from the condition (batch, width) once for each of them."""
        if noisy.shape[1:] != (self.config.tokens, self.config.latent_width):
            raise ValueError(
                f"The DiT denoises latents (batch, {self.config.tokens}, {self.config.latent_width}), "
                f"found {tuple(noisy.shape)}."
            )
        x = self.embed(noisy.to(self.embed.weight.dtype)) + self._places()
        for block, modulation in zip(self.blocks, modulations[:-1], strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, use_reentrant=False)
            else:
                x = block(x, modulation)
        last = modulations[-1] if modulations[-1].ndim == 3 else self._modulate_out(modulations[-1])
        shift, scale = last.unsqueeze(2).unbind(1)
        return self.out(self.norm_out(x) * (1 + scale) + shift)

    def modulations(self, timesteps: Tensor, conditions: Tensor, copies: int = 1) -> Iterator[list[Tensor]]:
        """What the conditions make of every norm, for the steps of a schedule, ahead of the sampler.

        timesteps: (steps,). conditions: (rows, condition_width), without those that are equal. copies: consecutive
        latents that share a condition. Yields for each step what `denoise` takes: a (rows · copies, 6, width) for every
        block and a (rows · copies, 2, width). They depend on nothing that the sampler makes, so the modulation layers,
        a third of the weights, are read once for many steps, and for people in place of samples.
        """
        numbers = len(conditions) * (6 * len(self.blocks) + 2) * self.config.width
        for steps in timesteps.split(max(1, MOST_AHEAD // numbers)):
            mixed = self._mix(steps.repeat_interleave(len(conditions)), conditions.repeat(len(steps), 1))
            layers = [block.modulate(mixed) for block in self.blocks if isinstance(block, Block)]
            layers.append(self._modulate_out(mixed))
            for step in zip(*(layer.split(len(conditions)) for layer in layers), strict=True):
                yield [rows.repeat_interleave(copies, dim=0) for rows in step]

    def _mix(self, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Timesteps (batch,) and conditions (batch, condition_width) → (batch, width)."""
        if condition.ndim != 2 or condition.shape[1] != self.config.condition_width:
            raise ValueError(
                f"The DiT takes conditions (batch, {self.config.condition_width}), found {tuple(condition.shape)}: "
                "they are of another checkpoint's MIF."
            )
        dtype = self.embed.weight.dtype
        time = self.embed_time(timestep_embedding(timesteps, TIME_WIDTH).to(dtype))
        return F.silu(time + self.embed_condition(condition.to(dtype)))

    def _modulate_out(self, condition: Tensor) -> Tensor:
        return self.modulation_out(condition).unflatten(-1, (2, -1))

    def _places(self) -> Tensor:
        """What each token is told of its place: (tokens, width)."""
        places = self.position
        if self.embed_type is not None:
            places = places + self.embed_type(self.token_types)
        if self.embed_depth is not None:
            places = places + self.embed_depth(self.token_depths)
        return places
