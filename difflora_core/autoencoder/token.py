"""The LAE's network `token`: one token per module or transformer block of the base model. Ours, not the paper's.

    LoRA ─ a linear map per module ─► codes (modules, channels) ─ + transformer ─► codes ─ a map per group ─► latent

Each module has its own map, or with `local` off all modules of one shape share one (SDXL: four). The transformer gets
embeddings of each token's type (to_q, to_out, …) and depth, works on a wider copy of the codes and adds a correction to
them, which starts at zero. Its normalizations are inside the branches only: the linear path around them carries a
LoRA's scale into the latent and back.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..lora.layout import LoRALayout
from ..lora.tokens import tokens_of
from .config import LAEConfig
from .staged import LocalConv1d, StagedAutoencoder


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, tokens, width) to the same shape."""
        q, k, v = rearrange(
            self.to_qkv(self.attention_norm(x)), "b t (qkv h w) -> qkv b h t w", qkv=3, h=self.heads
        ).unbind()
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.to_out(rearrange(mixed, "b h t w -> b t (h w)"))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class TokenTransformer(nn.Module):
    """Codes plus a correction by a transformer that knows each token's type and depth; it starts as the identity."""

    kinds: Tensor
    depths: Tensor

    def __init__(self, config: LAEConfig, kinds: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        # On the CPU even where the rest is made on the meta device: no file has them
        self.register_buffer("kinds", torch.tensor(kinds, device="cpu"), persistent=False)
        self.register_buffer("depths", torch.tensor(depths, device="cpu"), persistent=False)
        self.kind_embedding = nn.Parameter(torch.randn(max(kinds) + 1, config.hidden) * 0.5)
        self.depth_embedding = nn.Parameter(torch.randn(max(depths) + 1, config.hidden) * 0.5)
        self.widen = nn.Linear(config.channels, config.hidden)
        self.layers = nn.ModuleList(TransformerLayer(config.hidden, config.heads) for _ in range(config.blocks))
        self.narrow = nn.Linear(config.hidden, config.channels)
        for parameter in self.narrow.parameters():
            nn.init.zeros_(parameter)

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes (batch, tokens, channels) to the same shape."""
        x = self.widen(codes) + self.kind_embedding[self.kinds] + self.depth_embedding[self.depths]
        for layer in self.layers:
            x = layer(x)
        corrected: Tensor = codes + self.narrow(x)
        return corrected


class TokenAutoencoder(StagedAutoencoder):
    """Units are tokens. Each of `encoders` and `decoders` has the maps of all tokens of one shape."""

    def __init__(self, layout: LoRALayout, config: LAEConfig) -> None:
        super().__init__(layout.numel, config)
        tokens = tokens_of(layout, config.token_of)
        if len(tokens.sizes) % config.groups:
            raise ValueError(
                f"The LAE's groups must divide the {len(tokens.sizes)} {config.token_of}s of this layout, found "
                f"{config.groups} groups."
            )
        self.sizes = [sum(token) for token in tokens.sizes]
        stops = list(accumulate(self.sizes))
        self.spans = [(stop - size, stop) for size, stop in zip(self.sizes, stops, strict=True)]
        shapes = list(dict.fromkeys(tokens.sizes))  # tokens of one shape share a map, or run as one batch of maps
        self.kinds = [shapes.index(token) for token in tokens.sizes]
        self.members = [[i for i, kind in enumerate(self.kinds) if kind == shape] for shape in range(len(shapes))]
        maps = [(len(members) if config.local else 1, self.sizes[members[0]]) for members in self.members]
        self.encoders = nn.ModuleList(LocalConv1d(count, size, config.channels) for count, size in maps)
        self.encoder_blocks = TokenTransformer(config, tokens.types, tokens.depths)
        self.add_groups(len(tokens.sizes))
        self.decoder_blocks = TokenTransformer(config, tokens.types, tokens.depths)
        self.decoders = nn.ModuleList(self.new_decoder(count, config.channels, size) for count, size in maps)

    def encode_units(self, normalized: Tensor) -> Tensor:
        """Encode tokens, see the base class."""
        tokens = normalized.split(self.sizes, dim=1)
        codes: dict[int, Tensor] = {}
        for members, encoder in zip(self.members, self.encoders, strict=True):
            own = encoder(torch.stack([tokens[i] for i in members], dim=1))
            codes.update(zip(members, own.unbind(1), strict=True))
        return torch.stack([codes[i] for i in range(len(self.sizes))], dim=1)

    def decode_units(self, codes: Tensor) -> Tensor:
        """Decode tokens, see the base class."""
        tokens: dict[int, Tensor] = {}
        for members, encoder, decoder in zip(self.members, self.encoders, self.decoders, strict=True):
            assert isinstance(encoder, LocalConv1d)
            own = self.run_decoder(decoder, encoder, codes[:, members])
            tokens.update(zip(members, own.unbind(1), strict=True))
        return torch.cat([tokens[i] for i in range(len(self.sizes))], dim=1)

    def maps_of(self, unit: int) -> tuple[LocalConv1d, nn.Module, int]:
        """Return a token's maps, see the base class."""
        shape = self.kinds[unit]
        encoder = self.encoders[shape]
        assert isinstance(encoder, LocalConv1d)
        return encoder, self.decoders[shape], self.members[shape].index(unit) if self.config.local else 0
