"""What the LAE's networks are compared with: principal components, and convolutions that share all kernels."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LAEConfig
from .principal_components import ENCODED_LORAS, Read, gram, scores_of_gram, slices, wide

FLAT_STRIDE = 4
"""About; the strides are chosen so that their product fits the ratio."""


class LinearAutoencoder(nn.Module):
    """Principal components: one orthonormal `basis` (numel, tokens · width) encodes and decodes."""

    def __init__(self, numel: int, config: LAEConfig) -> None:
        super().__init__()
        self.config = config
        self.basis = nn.Parameter(torch.zeros(numel, config.tokens * config.width))

    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalized LoRAs (batch, numel) into raw latents (batch, tokens, width)."""
        return rearrange(normalized @ self.basis, "b (t w) -> b t w", w=self.config.width)

    def posterior(self, normalized: Tensor) -> tuple[Tensor, None]:
        """Encode; there is no variance."""
        return self.encode(normalized), None

    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (batch, tokens, width) into normalized LoRAs (batch, numel)."""
        return latents.flatten(1) @ self.basis.T

    def start_variance(self, deviation: Tensor) -> None:
        """Do nothing: there is no variance."""

    @torch.no_grad()
    def initialize_from(self, read: Read, loras: int) -> None:
        """Compute the components of training LoRAs."""
        numel, count = self.basis.shape
        scores = scores_of_gram(gram(read, 0, numel, loras), count).to(self.basis.dtype)
        loadings = torch.cat([read(start, stop).T @ scores for start, stop in slices(numel, loras)])
        self.basis.copy_(wide(torch.linalg.qr(loadings).Q, count))

    @torch.no_grad()
    def encode_columns(self, read: Read, loras: int) -> Tensor:
        """Encode LoRAs that are read in slices of columns: raw latents (loras, tokens, width)."""
        parts = (read(start, stop) @ self.basis[start:stop] for start, stop in slices(len(self.basis), loras))
        total = self.basis.new_zeros(loras, self.basis.shape[1])
        for part in parts:
            total += part
        return rearrange(total, "b (t w) -> b t w", w=self.config.width)


class FlatAutoencoder(nn.Module):
    """A plain autoencoder after p-diff (arXiv 2402.13144).

    Strided 1-D convolutions with shared kernels over the flat vector, SiLU between them, transposed ones back. Ours in
    two points: it has no normalization, since InstanceNorm over the flat vector erases a LoRA's scale; and channels
    double at each layer from 8 up to `hidden`. It starts at random and has to be trained.
    """

    def __init__(self, numel: int, config: LAEConfig) -> None:
        super().__init__()
        self.numel, self.config = numel, config
        strides = strides_for(math.ceil(numel / config.tokens))
        self.length = config.tokens * math.prod(strides)
        channels = [1, *(min(config.hidden, 8 * 2**i) for i in range(len(strides) - 1)), config.width]
        pad = config.kernel // 2
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for stride, fine, coarse in zip(strides, channels[:-1], channels[1:], strict=True):
            encoder += [nn.Conv1d(fine, coarse, stride + 2 * pad, stride, pad), nn.SiLU()]
            decoder = [nn.ConvTranspose1d(coarse, fine, stride + 2 * pad, stride, pad), nn.SiLU(), *decoder]
        self.encoder, self.decoder = nn.Sequential(*encoder[:-1]), nn.Sequential(*decoder[:-1])

    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalized LoRAs (batch, numel) into raw latents (batch, tokens, width)."""
        padded = F.pad(normalized, (0, self.length - self.numel))
        latents: Tensor = rearrange(self.encoder(padded[:, None]), "b w t -> b t w")
        return latents

    def posterior(self, normalized: Tensor) -> tuple[Tensor, None]:
        """Encode; there is no variance."""
        return self.encode(normalized), None

    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (batch, tokens, width) into normalized LoRAs (batch, numel)."""
        decoded: Tensor = self.decoder(rearrange(latents, "b t w -> b w t"))
        return decoded[:, 0, : self.numel]

    def start_variance(self, deviation: Tensor) -> None:
        """Do nothing: there is no variance."""

    def initialize_from(self, read: Read, loras: int) -> None:
        """Do nothing: shared kernels have no principal components to start from."""

    @torch.no_grad()
    def encode_columns(self, read: Read, loras: int) -> Tensor:
        """Encode LoRAs into raw latents (loras, tokens, width), all columns at once: convolutions overlap."""
        return torch.cat([self.encode(batch) for batch in read(0, self.numel).split(ENCODED_LORAS)])


def strides_for(ratio: int) -> list[int]:
    """Choose strides of about `FLAT_STRIDE` whose product is `ratio` or a little more, the larger ones first."""
    count = max(1, round(math.log(max(ratio, 2), FLAT_STRIDE)))
    strides, left = [], ratio
    for remaining in range(count, 0, -1):
        stride = math.ceil(left ** (1 / remaining) - 1e-9)
        strides.append(stride)
        left = math.ceil(left / stride)
    return strides
