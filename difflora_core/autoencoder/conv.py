"""The LAE's network `conv`: the paper's 1-D convolutions over the flat LoRA.

"Nearly 300 times" is all that is public; kernels, channels and depth are our choice. A flat LoRA has no translation
symmetry: weight 17 of one module has nothing to do with weight 17 of the next, and convolutions that share one kernel
over all positions hardly learn. Therefore the first and last convolution are local (kernel = stride, a separate kernel
at every position) unless `local` is off, which is for comparison; the residual convolutions between them share theirs
and let neighboring chunks correct one another. The stage behind covers a whole group of chunks.
"""

import math

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LAEConfig
from .staged import LocalConv1d, StagedAutoencoder


class ResidualConv(nn.Module):
    """Two convolutions around a SiLU; the second starts at zero, so that the block starts as the identity."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.widen = nn.Conv1d(channels, hidden, kernel, padding=kernel // 2)
        self.narrow = nn.Conv1d(hidden, channels, kernel, padding=kernel // 2)
        for parameter in self.narrow.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map codes (batch, positions, channels) to the same shape."""
        correction: Tensor = self.narrow(F.silu(self.widen(x.transpose(1, 2))))
        return x + correction.transpose(1, 2)


class ConvAutoencoder(StagedAutoencoder):
    """Units are chunks of the flat vector, which is padded with zeros to a whole number of them per group."""

    def __init__(self, numel: int, config: LAEConfig) -> None:
        super().__init__(numel, config)
        self.chunks = math.ceil(numel / (config.chunk * config.groups)) * config.groups
        self.spans = [(i * config.chunk, (i + 1) * config.chunk) for i in range(self.chunks)]
        self.kinds = [0] * self.chunks
        positions = self.chunks if config.local else 1
        residual = (config.channels, config.hidden, config.kernel)
        self.chunk_encoder = LocalConv1d(positions, config.chunk, config.channels)
        self.encoder_blocks = nn.Sequential(*(ResidualConv(*residual) for _ in range(config.blocks)))
        self.add_groups(self.chunks)
        self.decoder_blocks = nn.Sequential(*(ResidualConv(*residual) for _ in range(config.blocks)))
        self.chunk_decoder = self.new_decoder(positions, config.channels, config.chunk)

    def encode_units(self, normalized: Tensor) -> Tensor:
        """Encode chunks, see the base class."""
        padded = F.pad(normalized, (0, self.chunks * self.config.chunk - self.numel))
        codes: Tensor = self.chunk_encoder(rearrange(padded, "b (chunks size) -> b chunks size", chunks=self.chunks))
        return codes

    def decode_units(self, codes: Tensor) -> Tensor:
        """Decode chunks, see the base class."""
        chunks = self.run_decoder(self.chunk_decoder, self.chunk_encoder, codes)
        return rearrange(chunks, "b c n -> b (c n)")[:, : self.numel]

    def maps_of(self, unit: int) -> tuple[LocalConv1d, nn.Module, int]:
        """Return a chunk's maps, see the base class."""
        return self.chunk_encoder, self.chunk_decoder, unit if self.config.local else 0
