"""The LAE's network `token`: one token per module or per transformer block of the U-Net. Our own, not the paper's.

    numbers ─ a linear map per module ─► codes (modules, channels) ─ + transformer ─► codes ─ a map per group ─► latent

The map of a module is its own, or with ``local`` off one for all modules of the same shape (SDXL: four). The
transformer is told what kind of module a token is (to_q, to_out, …) and how deep its block lies, works on a wider
copy of the codes and adds a correction to them, which starts at zero. Its normalizations stand inside the branches
only: what they compute is bounded, and the linear way around them carries a LoRA's scale into the latent and back.
"""

import re
from collections.abc import Sequence
from itertools import accumulate

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..lora.layout import LoRALayout
from .config import LAEConfig
from .staged import LocalConv1d, StagedAutoencoder, TransposedLocalConv1d, apply_maps

BLOCK = re.compile(r"^(?P<block>.*\.transformer_blocks\.\d+)\.(?P<kind>.*)$")


def split_name(name: str) -> tuple[str, str]:
    """A module's name as its block and its kind: "….transformer_blocks.0" and "attn1.to_q". A name without a block is
    a block of its own, and its kind is the last word.
    """
    found = BLOCK.match(name)
    return (found["block"], found["kind"]) if found else (name, name.rsplit(".", 1)[-1])


def tokens_of(layout: LoRALayout, token_of: str) -> tuple[list[tuple[int, ...]], list[int], list[int]]:
    """Sizes of the modules in each token, in flat order; and for each token the number of its kind and of its depth.

    A token is a module, or all neighboring modules of one transformer block. Tokens of one kind have the same modules
    in the same order; the depth counts blocks.
    """
    sizes: list[tuple[int, ...]] = []
    kinds: list[tuple[str, ...]] = []
    blocks: list[str] = []
    for module in layout.modules:
        size = layout.rank * (module.in_features + module.out_features)
        block, kind = split_name(module.name)
        if token_of == "block" and blocks and blocks[-1] == block:
            sizes[-1], kinds[-1] = (*sizes[-1], size), (*kinds[-1], kind)
        else:
            sizes.append((size,))
            kinds.append((kind,))
            blocks.append(block)
    kind_numbers = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    block_numbers = {block: i for i, block in enumerate(dict.fromkeys(blocks))}
    return sizes, [kind_numbers[kind] for kind in kinds], [block_numbers[block] for block in blocks]


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width), both ways
        q, k, v = rearrange(
            self.to_qkv(self.attention_norm(x)), "b t (qkv h w) -> qkv b h t w", qkv=3, h=self.heads
        ).unbind()
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.to_out(rearrange(mixed, "b h t w -> b t (h w)"))
        return x + self.mlp(self.mlp_norm(x))


class TokenTransformer(nn.Module):
    """Codes plus a correction by a transformer that knows each token's kind and depth; it starts as the identity."""

    kinds: Tensor
    depths: Tensor

    def __init__(self, config: LAEConfig, kinds: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("kinds", torch.tensor(kinds), persistent=False)
        self.register_buffer("depths", torch.tensor(depths), persistent=False)
        self.kind_embedding = nn.Parameter(torch.randn(max(kinds) + 1, config.hidden) * 0.5)
        self.depth_embedding = nn.Parameter(torch.randn(max(depths) + 1, config.hidden) * 0.5)
        self.widen = nn.Linear(config.channels, config.hidden)
        self.layers = nn.ModuleList(TransformerLayer(config.hidden, config.heads) for _ in range(config.blocks))
        self.narrow = nn.Linear(config.hidden, config.channels)
        for parameter in self.narrow.parameters():
            nn.init.zeros_(parameter)

    def forward(self, codes: Tensor) -> Tensor:  # (batch, tokens, channels), both ways
        x = self.widen(codes) + self.kind_embedding[self.kinds] + self.depth_embedding[self.depths]
        for layer in self.layers:
            x = layer(x)
        return codes + self.narrow(x)


class TokenAutoencoder(StagedAutoencoder):
    """Units are tokens. `encoders` and `decoders` hold the maps of all tokens of one shape each."""

    def __init__(self, layout: LoRALayout, config: LAEConfig) -> None:
        super().__init__(config)
        modules, kinds, depths = tokens_of(layout, config.token_of)
        if len(modules) % config.groups:
            raise ValueError(
                f"The LAE's groups must divide the {len(modules)} {config.token_of}s of this layout, found "
                f"{config.groups} groups."
            )
        self.sizes = [sum(token) for token in modules]
        stops = list(accumulate(self.sizes))
        self.spans = [(stop - size, stop) for size, stop in zip(self.sizes, stops, strict=True)]
        shapes = list(dict.fromkeys(modules))  # tokens of one shape share a map, or run as one batch of maps
        self.kinds = [shapes.index(token) for token in modules]
        self.members = [[i for i, kind in enumerate(self.kinds) if kind == shape] for shape in range(len(shapes))]
        maps = [(len(members) if config.local else 1, self.sizes[members[0]]) for members in self.members]
        self.encoders = nn.ModuleList(LocalConv1d(count, size, config.channels) for count, size in maps)
        self.encoder_blocks = TokenTransformer(config, kinds, depths)
        self.add_groups(len(modules))
        self.decoder_blocks = TokenTransformer(config, kinds, depths)
        self.decoders = nn.ModuleList(
            TransposedLocalConv1d(count, size) if config.tied else LocalConv1d(count, config.channels, size)
            for count, size in maps
        )

    def codes(self, numbers: Tensor) -> Tensor:
        tokens = numbers.split(self.sizes, dim=1)
        codes: dict[int, Tensor] = {}
        for members, encoder in zip(self.members, self.encoders, strict=True):
            own = encoder(torch.stack([tokens[i] for i in members], dim=1))
            codes.update(zip(members, own.unbind(1), strict=True))
        return torch.stack([codes[i] for i in range(len(self.sizes))], dim=1)

    def numbers(self, codes: Tensor) -> Tensor:
        tokens: dict[int, Tensor] = {}
        for members, encoder, decoder in zip(self.members, self.encoders, self.decoders, strict=True):
            own = decoder(codes[:, members], *([encoder.weight] if self.config.tied else []))
            tokens.update(zip(members, own.unbind(1), strict=True))
        return torch.cat([tokens[i] for i in range(len(self.sizes))], dim=1)

    def unit_codes(self, unit: int, numbers: Tensor) -> Tensor:
        encoder, _, position = self._maps(unit)
        return apply_maps(numbers[:, None], encoder.weight[position, None])[:, 0] + encoder.bias[position]

    def set_unit(self, unit: int, basis: Tensor, size: Tensor) -> None:
        encoder, decoder, position = self._maps(unit)
        encoder.weight[position] = basis / size
        if isinstance(decoder, TransposedLocalConv1d):
            decoder.gain[position] = size.square()
        elif isinstance(decoder, LocalConv1d):
            decoder.weight[position] = basis.T * size

    def _maps(self, unit: int) -> tuple[LocalConv1d, nn.Module, int]:
        shape = self.kinds[unit]
        encoder = self.encoders[shape]
        assert isinstance(encoder, LocalConv1d)
        return encoder, self.decoders[shape], self.members[shape].index(unit) if self.config.local else 0
