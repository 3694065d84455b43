"""The LoRA weight autoencoder (LAE): a flat LoRA to a few hundred times fewer numbers and back.

The paper compresses the flattened LoRA with 1-D convolutions, "nearly 300 times"; kernels, channels and depth are not
public. A flat LoRA has no translation symmetry: number 17 of one module has nothing to do with number 17 of the next,
and convolutions that share one kernel over all positions hardly learn. The shape here is therefore our choice:

    numbers ─ local convolution ─► codes (chunks, channels) ─ residual convolutions ─► codes ─ local convolution ─►
    latent

A *local* convolution has kernel = stride and its own kernel at every position; the residual convolutions between them
share theirs and let neighbouring chunks correct one another. The last local convolution covers a whole group of
chunks (all of them in the miniature). The decoder is the mirror image. Both local stages start from principal
components and the residual branches from zero, so that training starts at about the quality of PCA and improves from
there.

Nothing inside normalises a LoRA by its own size: scale is identity strength and has to survive. The statistics outside
the network (mean LoRA, scale per factor, latent mean and deviation) belong to the training set, not to a LoRA, so they
do not count as side numbers in the compression ratio.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .layout import LoRALayout

MOST_LORAS_FOR_PCA = 2048  # the Gram matrix of all pairs is the cost; more LoRAs are thinned out evenly


@dataclass(frozen=True)
class LAEConfig:
    """Shape of the autoencoder. ``tokens`` × ``width`` is the latent; the rest describes the ``conv`` network.

    chunk: numbers under one kernel of the first local convolution; channels: codes it makes of them; hidden, kernel,
    blocks: the residual convolutions between; groups: positions of the last local convolution (must divide
    ``tokens``). Parameters grow as ``2 · numel · (channels + channels · tokens · width / (chunk · groups))``, so real
    LoRAs need many groups. tied: the decoder's local convolutions are the encoder's, transposed, which halves the
    parameters: at equal size twice the channels. ``linear`` is principal component analysis at the same budget: the
    baseline to beat.
    scale: unit of a factor's numbers; ``spread`` is their standard deviation over the training LoRAs, ``delta`` is
    what moves ΔW by one (so that equal errors weigh equally in ΔW).
    """

    kind: Literal["conv", "linear"] = "conv"
    tokens: int = 18
    width: int = 16
    chunk: int = 256
    channels: int = 24
    hidden: int = 64
    kernel: int = 3
    blocks: int = 2
    groups: int = 1
    tied: bool = False
    scale: Literal["spread", "delta"] = "spread"

    def __post_init__(self) -> None:
        if self.tokens % self.groups:
            raise ValueError(
                f"The LAE's groups must divide its tokens, found {self.groups} groups, {self.tokens} tokens."
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"The LAE's residual kernel must be odd to keep the length, found {self.kernel}.")


class LocalConv1d(nn.Module):
    """A 1-D convolution with kernel = stride and separate weights at every position (a grouped convolution)."""

    def __init__(self, positions: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(positions, fan_in, fan_out) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(positions, fan_out))

    def forward(self, x: Tensor) -> Tensor:  # (batch, positions, fan_in) -> (batch, positions, fan_out)
        return torch.einsum("bpi,pio->bpo", x, self.weight) + self.bias


class ResidualConv(nn.Module):
    """Two convolutions around a SiLU; the second starts at zero, so that the block starts as the identity."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.widen = nn.Conv1d(channels, hidden, kernel, padding=kernel // 2)
        self.narrow = nn.Conv1d(hidden, channels, kernel, padding=kernel // 2)
        for parameter in self.narrow.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # (batch, positions, channels), both ways
        return x + self.narrow(F.silu(self.widen(x.transpose(1, 2)))).transpose(1, 2)


class TransposedLocalConv1d(nn.Module):
    """The transpose of a `LocalConv1d` with its weights, given at each call; ``gain`` undoes its scaling."""

    gain: Tensor

    def __init__(self, positions: int, fan_out: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(positions, fan_out))
        self.register_buffer("gain", torch.ones(positions, 1))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:  # (batch, positions, fan_in) -> (batch, positions, fan_out)
        return torch.einsum("bpo,pio->bpi", self.gain * x, weight) + self.bias


class ConvAutoencoder(nn.Module):
    """Normalised numbers ``(batch, numel)`` to raw latents ``(batch, tokens, width)`` and back: see above."""

    group_decoder: nn.Module
    chunk_decoder: nn.Module

    def __init__(self, numel: int, config: LAEConfig) -> None:
        super().__init__()
        self.numel, self.config = numel, config
        self.chunks = math.ceil(numel / (config.chunk * config.groups)) * config.groups
        span = self.chunks // config.groups * config.channels
        latents = config.tokens // config.groups * config.width
        residual = (config.channels, config.hidden, config.kernel)
        self.chunk_encoder = LocalConv1d(self.chunks, config.chunk, config.channels)
        self.encoder_blocks = nn.Sequential(*(ResidualConv(*residual) for _ in range(config.blocks)))
        self.group_encoder = LocalConv1d(config.groups, span, latents)
        self.decoder_blocks = nn.Sequential(*(ResidualConv(*residual) for _ in range(config.blocks)))
        if config.tied:
            self.group_decoder = TransposedLocalConv1d(config.groups, span)
            self.chunk_decoder = TransposedLocalConv1d(self.chunks, config.chunk)
        else:
            self.group_decoder = LocalConv1d(config.groups, latents, span)
            self.chunk_decoder = LocalConv1d(self.chunks, config.channels, config.chunk)

    def into_chunks(self, numbers: Tensor) -> Tensor:
        padded = F.pad(numbers, (0, self.chunks * self.config.chunk - self.numel))
        return rearrange(padded, "b (chunks number) -> b chunks number", chunks=self.chunks)

    def encode(self, numbers: Tensor) -> Tensor:
        codes = self.encoder_blocks(self.chunk_encoder(self.into_chunks(numbers)))
        latents = self.group_encoder(rearrange(codes, "b (g c) n -> b g (c n)", g=self.config.groups))
        return rearrange(latents, "b g (t w) -> b (g t) w", w=self.config.width)

    def decode(self, latents: Tensor) -> Tensor:
        grouped = rearrange(latents, "b (g t) w -> b g (t w)", g=self.config.groups)
        tied = self.config.tied
        spans = self.group_decoder(grouped, *([self.group_encoder.weight] if tied else []))
        codes = self.decoder_blocks(rearrange(spans, "b g (c n) -> b (g c) n", n=self.config.channels))
        chunks = self.chunk_decoder(codes, *([self.chunk_encoder.weight] if tied else []))
        return rearrange(chunks, "b c n -> b (c n)")[:, : self.numel]

    @torch.no_grad()
    def initialise_from(self, numbers: Tensor) -> None:
        """Set both local stages from training LoRAs ``(loras, numel)``: components of components, group by group.

        The channels of a chunk are the directions that matter most to the *group's* components, not to the chunk alone.
        """
        chunks = rearrange(self.into_chunks(thin_out(numbers)), "n (g c) i -> g n c i", g=self.config.groups)
        channels, latents = self.config.channels, self.group_encoder.weight.shape[-1]
        for group, x in enumerate(chunks):
            scores = principal_scores(x.flatten(1), max(latents, channels))  # (loras, count), orthonormal columns
            loadings = torch.einsum("nci,nk->cik", x, scores)  # (chunks, chunk, count)
            _, mixing = torch.linalg.eigh(loadings.mT @ loadings)
            basis = torch.linalg.qr(loadings @ mixing[..., -channels:].flip(-1)).Q  # (chunks, chunk, channels)
            codes = torch.einsum("nci,cij->ncj", x, basis)
            size = codes.square().mean().sqrt().clamp_min(1e-8)  # residual blocks see codes of about unit size
            codes = (codes / size).flatten(1)
            directions = principal_directions(codes, latents)

            own = slice(group * x.shape[1], (group + 1) * x.shape[1])
            self.chunk_encoder.weight[own] = basis / size
            self.group_encoder.weight[group] = directions
            if isinstance(self.chunk_decoder, TransposedLocalConv1d):
                self.chunk_decoder.gain[own] = size.square()
            elif isinstance(self.chunk_decoder, LocalConv1d):
                self.chunk_decoder.weight[own] = basis.mT * size
            if isinstance(self.group_decoder, LocalConv1d):
                self.group_decoder.weight[group] = directions.T


class LinearAutoencoder(nn.Module):
    """Principal components behind the same interface: one orthonormal ``basis`` (numel, tokens · width), both ways."""

    def __init__(self, numel: int, config: LAEConfig) -> None:
        super().__init__()
        self.config = config
        self.basis = nn.Parameter(torch.zeros(numel, config.tokens * config.width))

    def encode(self, numbers: Tensor) -> Tensor:
        return rearrange(numbers @ self.basis, "b (t w) -> b t w", w=self.config.width)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.flatten(1) @ self.basis.T

    @torch.no_grad()
    def initialise_from(self, numbers: Tensor) -> None:
        x = thin_out(numbers)
        self.basis.copy_(principal_directions(x, self.basis.shape[1]))


class LAE(nn.Module):
    """The autoencoder with its statistics: flat LoRAs ``(batch, numel)`` ⇄ latents ``(batch, tokens, width)``.

    Latents are standardised number by number over the training LoRAs, so that diffusion sees about a unit Gaussian
    and zero is the average person. A new LAE knows nothing: call :meth:`fit` on training LoRAs, or load a state dict.
    """

    mean: Tensor
    factor_scale: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, layout: LoRALayout, config: LAEConfig) -> None:
        super().__init__()
        self.layout, self.config = layout, config
        self.network = (ConvAutoencoder if config.kind == "conv" else LinearAutoencoder)(layout.numel, config)
        self.register_buffer("mean", torch.zeros(layout.numel))
        self.register_buffer("factor_scale", torch.ones(len(layout.factor_sizes)))
        self.register_buffer("latent_mean", torch.zeros(config.tokens, config.width))
        self.register_buffer("latent_std", torch.ones(config.tokens, config.width))

    @property
    def compression_ratio(self) -> float:
        """Numbers of a LoRA over numbers that encode one LoRA. There are no side numbers: all are in the latent."""
        return self.layout.numel / (self.config.tokens * self.config.width)

    def encode(self, flat: Tensor) -> Tensor:
        self.layout.check(flat)
        return (self.network.encode(self.normalise(flat)) - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor) -> Tensor:
        if latents.shape[1:] != self.latent_mean.shape:
            expected = tuple(self.latent_mean.shape)
            raise ValueError(
                f"Latents of this LAE are (batch, {expected[0]}, {expected[1]}), found {tuple(latents.shape)}."
            )
        return self.restore(self.network.decode(latents * self.latent_std + self.latent_mean))

    def normalise(self, flat: Tensor) -> Tensor:
        """Deviation from the mean LoRA in units of the factor's scale."""
        return (flat - self.mean) / self.scale_of_numbers()

    def restore(self, numbers: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`."""
        return numbers * self.scale_of_numbers() + self.mean

    def scale_of_numbers(self) -> Tensor:
        sizes = torch.tensor(self.layout.factor_sizes, device=self.factor_scale.device)
        return self.factor_scale.repeat_interleave(sizes, output_size=self.layout.numel)

    @torch.no_grad()
    def fit(self, loras: Tensor) -> None:
        """Take statistics and starting weights from LoRAs ``(loras, numel)``; raises ValueError on bad ones."""
        self.layout.check(loras)
        if len(loras) < 2:
            raise ValueError(f"Fitting an LAE needs at least two LoRAs, found {len(loras)}.")
        if not loras.isfinite().all():
            raise ValueError(f"LoRA {int((~loras.isfinite().all(1)).nonzero()[0])} holds NaN or infinite numbers.")
        self.mean.copy_(loras.mean(0))
        variance = torch.stack([part.mean() for part in loras.var(0).split(self.layout.factor_sizes)])
        if self.config.scale == "spread":
            self.factor_scale.copy_(variance.sqrt())
        else:
            # To first order δ(BA) = δB·A + B·δA: an error in one factor weighs as much as the other factor is long
            lengths = torch.stack(
                [part.square().sum(1).mean() for part in loras.split(self.layout.factor_sizes, dim=1)]
            )
            other = lengths.unflatten(0, (-1, 2)).flip(1).flatten()
            self.factor_scale.copy_(other.clamp_min(1e-20).rsqrt())
            sizes = torch.tensor(self.layout.factor_sizes, device=variance.device)
            self.factor_scale *= ((variance / self.factor_scale.square()) * sizes).sum().div(sizes.sum()).sqrt()
        self.factor_scale.clamp_min_(1e-12)
        self.network.initialise_from(self.normalise(loras))
        self.fit_latents(loras)

    @torch.no_grad()
    def fit_latents(self, loras: Tensor, batch_size: int = 64) -> None:
        """Measure mean and deviation of the latents of training LoRAs: after fitting and again after training."""
        raw = torch.cat([self.network.encode(self.normalise(batch)) for batch in loras.split(batch_size)])
        self.latent_mean.copy_(raw.mean(0))
        deviation = raw.std(0)
        self.latent_std.copy_(torch.where(deviation > 1e-6 * deviation.max(), deviation, 1))  # 1 where nothing varies


def thin_out(loras: Tensor) -> Tensor:
    return loras[:: math.ceil(len(loras) / MOST_LORAS_FOR_PCA)]


def principal_scores(x: Tensor, count: int) -> Tensor:
    """The leading left singular vectors ``(n, count)`` of ``x`` ``(n, d)``, n ≤ d, zero beyond its rank.

    Through the Gram matrix in float64: exact, deterministic, and cheap because there are far fewer LoRAs than numbers.
    """
    values, vectors = torch.linalg.eigh((x @ x.T).double())
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    vectors = vectors * (values > 1e-9 * values[0])
    return F.pad(vectors, (0, count - vectors.shape[1])).to(x.dtype)


def principal_directions(x: Tensor, count: int) -> Tensor:
    """The leading right singular vectors ``(d, count)`` of ``x`` ``(n, d)``, orthonormal also beyond its rank.

    Orthonormalised by QR: a direction that hardly varies comes out of the Gram matrix with the large ones mixed in.
    """
    return torch.linalg.qr(x.T @ principal_scores(x, count)).Q
