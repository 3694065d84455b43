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
from .principal_components import Read
from .staged import LocalConv1d, StagedAutoencoder, TransposedLocalConv1d


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

    chunk_decoder: nn.Module

    def __init__(self, numel: int, config: LAEConfig) -> None:
        super().__init__(config)
        self.numel = numel
        self.chunks = math.ceil(numel / (config.chunk * config.groups)) * config.groups
        self.spans = [(i * config.chunk, (i + 1) * config.chunk) for i in range(self.chunks)]
        self.kinds = [0] * self.chunks
        positions = self.chunks if config.local else 1
        residual = (config.channels, config.hidden, config.kernel)
        self.chunk_encoder = LocalConv1d(positions, config.chunk, config.channels)
        self.encoder_blocks = nn.Sequential(*(ResidualConv(*residual) for _ in range(config.blocks)))
        self.add_groups(self.chunks)
        self.decoder_blocks = nn.Sequential(*(ResidualConv(*residual) for _ in range(config.blocks)))
        if config.tied:
            self.chunk_decoder = TransposedLocalConv1d(positions, config.chunk)
        else:
            self.chunk_decoder = LocalConv1d(positions, config.channels, config.chunk)

    def encode_units(self, normalized: Tensor) -> Tensor:
        """Encode chunks, see the base class."""
        padded = F.pad(normalized, (0, self.chunks * self.config.chunk - self.numel))
        codes: Tensor = self.chunk_encoder(rearrange(padded, "b (chunks size) -> b chunks size", chunks=self.chunks))
        return codes

    def decode_units(self, codes: Tensor) -> Tensor:
        """Decode chunks, see the base class."""
        chunks: Tensor = self.chunk_decoder(codes, *([self.chunk_encoder.weight] if self.config.tied else []))
        return rearrange(chunks, "b c n -> b (c n)")[:, : self.numel]

    def encode_unit(self, unit: int, normalized: Tensor) -> Tensor:
        """Encode one chunk, see the base class."""
        position = self._position(unit)
        return normalized @ self.chunk_encoder.weight[position] + self.chunk_encoder.bias[position]

    def set_unit(self, unit: int, basis: Tensor, size: Tensor) -> None:
        """Initialize one chunk's maps, see the base class."""
        position = self._position(unit)
        self.chunk_encoder.weight[position] = basis / size
        if isinstance(self.chunk_decoder, TransposedLocalConv1d):
            self.chunk_decoder.gain[position] = size.square()
        elif isinstance(self.chunk_decoder, LocalConv1d):
            self.chunk_decoder.weight[position] = basis.T * size

    def _position(self, unit: int) -> int:
        return unit if self.config.local else 0

    def encode_columns(self, read: Read, loras: int, batch_size: int = 64) -> Tensor:
        """Encode LoRAs that are read in slices of columns, see the base class."""
        return super().encode_columns(self._padded(read), loras, batch_size)

    def initialize_from(self, read: Read, loras: int) -> None:
        """Initialize both stages from training LoRAs, see the base class."""
        super().initialize_from(self._padded(read), loras)

    def _padded(self, read: Read) -> Read:
        def padded(start: int, stop: int) -> Tensor:
            inside = min(start, self.numel), min(stop, self.numel)
            return F.pad(read(*inside), (0, stop - start - (inside[1] - inside[0])))

        return padded
