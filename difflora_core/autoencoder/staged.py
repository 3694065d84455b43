"""What the networks `conv` and `token` share: two linear stages with separate maps, and residual layers between.

    LoRA ─ a map per unit ─► codes (units, channels) ─ residual ─► codes ─ a map per group of units ─► latent

A unit is a chunk of the flat vector or a module. Both stages start from principal components and what is between them
from the identity, so that training starts at about the quality of PCA. From LoRA to latent all is linear apart from the
residual part: a LoRA's scale, which is its identity strength, is kept.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LAEConfig
from .principal_components import (
    ENCODED_LORAS,
    Read,
    Span,
    gram,
    leading_basis,
    leading_eigenvectors,
    principal_directions,
    read_spans,
    scores_of_gram,
    wide,
)

FIRST_LOG_VARIANCE = -4.0
"""Of a standardized latent: noise of 0.14 deviations when training begins."""


class LocalConv1d(nn.Module):
    """A 1-D convolution with kernel = stride and separate weights at every position (a grouped convolution).

    With a single position its weights are shared by all positions: a plain convolution.
    """

    def __init__(self, positions: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(positions, fan_in, fan_out) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(positions, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, positions, fan_in) to (batch, positions, fan_out)."""
        return apply_maps(x, self.weight) + self.bias


class TransposedLocalConv1d(nn.Module):
    """The transpose of a `LocalConv1d`, whose weights are given at each call; `gain` undoes its scaling."""

    gain: Tensor

    def __init__(self, positions: int, fan_out: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(positions, fan_out))
        self.register_buffer("gain", torch.ones(positions, 1))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Map (batch, positions, fan_in) to (batch, positions, fan_out)."""
        return apply_maps((self.gain * x).to(weight.dtype), weight.mT) + self.bias


def apply_maps(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x (batch, positions, in) by weight (positions or 1, in, out): (batch, positions, out)."""
    if len(weight) == 1:
        return x @ weight[0]
    return torch.einsum("bpi,pio->bpo", x, weight)


def set_maps(
    encoder: LocalConv1d, decoder: nn.Module, position: int, basis: Tensor, size: Tensor | float = 1.0
) -> None:
    """Initialize the maps of one position by an orthonormal basis (long, short); codes are divided by `size`."""
    encoder.weight[position] = basis / size
    if isinstance(decoder, TransposedLocalConv1d):
        decoder.gain[position] = size**2
    elif isinstance(decoder, LocalConv1d):
        decoder.weight[position] = basis.T * size


def random_basis(length: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw orthonormal columns (length, count); where there are more columns than rows, the last are zero."""
    columns = torch.randn(length, min(length, count), generator=generator)
    return wide(torch.linalg.qr(columns).Q, count)


class StagedAutoencoder(nn.Module):
    """Normalized LoRAs (batch, numel) ⇄ raw latents (batch, tokens, width), in two stages: see above.

    A subclass has the maps between units and codes: in `__init__` it makes them, `spans`, `kinds`, the residual layers,
    and by `add_groups` the second stage; `encode_units`, `decode_units` and `maps_of` use them. All else is here.
    """

    encoder_blocks: nn.Module
    decoder_blocks: nn.Module
    group_decoder: nn.Module
    spans: Sequence[Span]
    """Range of the flat vector of each unit, in order; what reaches past its end is zeros."""
    kinds: Sequence[int]
    """Index of each unit's map, where maps are shared."""

    def __init__(self, numel: int, config: LAEConfig) -> None:
        super().__init__()
        self.numel, self.config = numel, config

    def encode_units(self, normalized: Tensor) -> Tensor:
        """Encode normalized LoRAs (batch, numel) into codes (batch, units, channels)."""
        raise NotImplementedError

    def decode_units(self, codes: Tensor) -> Tensor:
        """Decode codes (batch, units, channels) into normalized LoRAs (batch, numel)."""
        raise NotImplementedError

    def maps_of(self, unit: int) -> tuple[LocalConv1d, nn.Module, int]:
        """Return the encoder and the decoder of a unit, and its position in both."""
        raise NotImplementedError

    def add_groups(self, units: int) -> None:
        """Make the stage between codes and latent."""
        config = self.config
        span, latents = units // config.groups * config.channels, config.tokens // config.groups * config.width
        self.group_encoder = LocalConv1d(config.groups, span, latents)
        if config.variational:
            self.log_variance = LocalConv1d(config.groups, span, latents)
            nn.init.zeros_(self.log_variance.weight)
        self.group_decoder = self.new_decoder(config.groups, latents, span)

    def new_decoder(self, positions: int, fan_in: int, fan_out: int) -> nn.Module:
        """Make the decoder to an encoder from `fan_out` to `fan_in`; tied, it has no weights of its own."""
        if self.config.tied:
            return TransposedLocalConv1d(positions, fan_out)
        return LocalConv1d(positions, fan_in, fan_out)

    def run_decoder(self, decoder: nn.Module, encoder: LocalConv1d, x: Tensor) -> Tensor:
        """Map (batch, positions, fan_in) to (batch, positions, fan_out); tied, by the weights of `encoder`."""
        decoded: Tensor = decoder(x, encoder.weight) if self.config.tied else decoder(x)
        return decoded

    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalized LoRAs (batch, numel) into raw latents (batch, tokens, width)."""
        return self.posterior(normalized)[0]

    def posterior(self, normalized: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute mean and, if variational, logarithm of the variance of raw latents, both (batch, tokens, width)."""
        return self.posterior_of_codes(self.encode_units(normalized))

    def posterior_of_codes(self, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the posterior from codes (batch, units, channels), see `posterior`."""
        spans = rearrange(self.encoder_blocks(codes), "b (g c) n -> b g (c n)", g=self.config.groups)
        shape, width = "b g (t w) -> b (g t) w", self.config.width
        mean = rearrange(self.group_encoder(spans), shape, w=width)
        return mean, rearrange(self.log_variance(spans), shape, w=width) if self.config.variational else None

    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (batch, tokens, width) into normalized LoRAs (batch, numel)."""
        grouped = rearrange(latents, "b (g t) w -> b g (t w)", g=self.config.groups)
        spans = self.run_decoder(self.group_decoder, self.group_encoder, grouped)
        return self.decode_units(
            self.decoder_blocks(rearrange(spans, "b g (c n) -> b (g c) n", n=self.config.channels))
        )

    @torch.no_grad()
    def encode_columns(self, read: Read, loras: int) -> Tensor:
        """Encode LoRAs that are read in slices of columns: raw latents (loras, tokens, width)."""
        parts = []
        for unit, x in read_spans(self._padded(read), self.spans, loras):
            encoder, _, position = self.maps_of(unit)
            parts.append(x @ encoder.weight[position] + encoder.bias[position])
        codes = torch.stack(parts, dim=1)
        return torch.cat([self.posterior_of_codes(batch)[0] for batch in codes.split(ENCODED_LORAS)])

    @torch.no_grad()
    def start_variance(self, deviation: Tensor) -> None:
        """Initialize the variances at a small share of the latents' own, whose deviation is (tokens, width)."""
        if self.config.variational:
            start = 2 * deviation.log() + FIRST_LOG_VARIANCE
            self.log_variance.bias.copy_(rearrange(start, "(g t) w -> g (t w)", g=self.config.groups))

    @torch.no_grad()
    def initialize_from(self, read: Read, loras: int) -> None:
        """Initialize both stages from training LoRAs: components of components, group by group.

        The codes of a unit are the directions that matter most to the *group's* components, not to the unit alone.
        """
        read = self._padded(read)
        per = len(self.spans) // self.config.groups
        groups = [range(first, first + per) for first in range(0, len(self.spans), per)]
        if not self.config.local:
            scores = [self._group_scores(read, loras, group) for group in groups]
            bases, size = self._shared_bases(read, loras, list(zip(groups, scores, strict=True)))
            for number, group in enumerate(groups):
                self._initialize_group(read, loras, number, group, lambda unit, _: bases[self.kinds[unit]], size)
            return

        def own_basis(scores: Tensor, _: int, weights: Tensor) -> Tensor:
            return leading_basis(weights.T @ scores, self.config.channels)

        for number, group in enumerate(groups):
            basis_of = partial(own_basis, self._group_scores(read, loras, group))
            self._initialize_group(read, loras, number, group, basis_of)

    def _group_scores(self, read: Read, loras: int, group: range) -> Tensor:
        """Compute the leading components' values for each LoRA (loras, components) over the units of a group."""
        products = gram(read, self.spans[group[0]][0], self.spans[group[-1]][1], loras)
        components = max(self.group_encoder.weight.shape[-1], self.config.channels)
        return scores_of_gram(products, min(loras, components)).float()

    def _initialize_group(
        self,
        read: Read,
        loras: int,
        number: int,
        group: range,
        basis_of: Callable[[int, Tensor], Tensor],
        size: Tensor | None = None,
    ) -> None:
        """Initialize the maps of a group's units, and of the second stage for this group.

        Args:
            read: Reads LoRAs, with zeros past their end.
            loras: How many there are.
            number: Of the group.
            group: Its units.
            basis_of: From a unit and its weights (loras, size) to its basis (size, channels).
            size: What codes are divided by, so that the residual layers get codes of about unit size; None measures it.
        """
        bases, parts = [], []
        for position, weights in read_spans(read, [self.spans[unit] for unit in group], loras):
            bases.append(basis_of(group[position], weights))
            parts.append(weights @ bases[-1])
        codes = torch.stack(parts, dim=1)  # (loras, units, channels)
        if size is None:
            size = codes.square().mean().sqrt().clamp_min(1e-8)
        directions = principal_directions((codes / size).flatten(1), self.group_encoder.weight.shape[-1])
        for unit, basis in zip(group, bases, strict=True):
            set_maps(*self.maps_of(unit), basis, size)
        set_maps(self.group_encoder, self.group_decoder, number, directions)

    @torch.no_grad()
    def initialize_at_random(self, generator: torch.Generator) -> float:
        """Initialize both stages where there are no training LoRAs, by random orthonormal bases.

        Returns:
            Deviation of raw latents at which decoded weights have about unit deviation.
        """
        config = self.config
        lengths = [stop - start for start, stop in self.spans]
        size = torch.tensor(math.sqrt(sum(lengths) / len(lengths) / config.channels))  # of codes about one
        bases: dict[int, Tensor] = {}  # of a kind, where maps are shared
        for unit, length in enumerate(lengths):
            kind = unit if config.local else self.kinds[unit]
            if kind not in bases:
                bases[kind] = random_basis(length, config.channels, generator)
            set_maps(*self.maps_of(unit), bases[kind], size)
        groups, span, latents = self.group_encoder.weight.shape
        for number in range(groups):
            set_maps(self.group_encoder, self.group_decoder, number, random_basis(span, latents, generator))
        return math.sqrt(span / min(span, latents))

    def _padded(self, read: Read) -> Read:
        """Read zeros past the end of the flat vector."""

        def padded(start: int, stop: int) -> Tensor:
            inside = min(start, self.numel), min(stop, self.numel)
            return F.pad(read(*inside), (0, stop - start - (inside[1] - inside[0])))

        return padded

    def _shared_bases(
        self, read: Read, loras: int, groups: Sequence[tuple[range, Tensor]]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Compute one basis for all units of a kind, and the size of the codes that they make."""
        energies: dict[int, Tensor] = {}  # per kind (size, size), summed over units and components
        for group, scores in groups:
            for position, x in read_spans(read, [self.spans[unit] for unit in group], loras):
                kind, loadings = self.kinds[group[position]], x.T @ scores
                energies[kind] = energies.get(kind, 0) + loadings @ loadings.T
        bases = {kind: leading_eigenvectors(energy, self.config.channels) for kind, energy in energies.items()}
        total = sum(
            ((bases[kind] * (energy @ bases[kind])).sum() for kind, energy in energies.items()), torch.zeros(())
        )
        return bases, (total / (loras * len(self.spans) * self.config.channels)).sqrt().clamp_min(1e-8)
