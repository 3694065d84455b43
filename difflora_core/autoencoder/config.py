"""The shape of a LoRA weight autoencoder."""

from dataclasses import dataclass
from typing import Literal

from ..fields import NonNegativeInt, PositiveInt, check_fields

BASELINES = ("flat", "linear")
"""Kinds for comparison: they are not variational, and can't start without LoRAs."""


@dataclass(frozen=True)
class LAEConfig:
    """Shape of the autoencoder: `tokens` × `width` is the latent, the rest describes the network.

    The number of parameters grows as `2 · numel · channels + 2 · units · channels · tokens · width / groups`, where
    units are chunks, modules or blocks.
    """

    kind: Literal["conv", "token", "flat", "linear"] = "conv"
    """`conv`: 1-D convolutions over the flat vector, as in the paper. `token`: a transformer over modules or blocks.
    Baselines: `linear`, principal components; `flat`, convolutions that share all kernels."""
    tokens: PositiveInt = 18
    """Tokens of the latent."""
    width: PositiveInt = 16
    """Width of the latent."""
    chunk: PositiveInt = 256
    """conv: weights under one kernel of the first stage."""
    channels: PositiveInt = 24
    """Width of the code of a chunk or token."""
    hidden: PositiveInt = 64
    """conv: channels of the residual convolutions. token: width of the transformers. flat: the most channels."""
    kernel: PositiveInt = 3
    """conv: kernel of the residual convolutions, odd. flat: kernels are longer than their stride by one less."""
    blocks: NonNegativeInt = 2
    """conv: residual convolutions, token: layers of a transformer, in the encoder and again in the decoder."""
    groups: PositiveInt = 1
    """Positions of the stage between codes and latent; divides `tokens`, and the modules or blocks of `token`. SDXL's
    LoRAs need groups, as few as the training LoRAs allow: a group can't have more independent latents than there are
    LoRAs (miniature, 280 values by `token`: R² 0.54 with 1 group, 0.45 with 10, 0.25 with 70)."""
    tied: bool = False
    """The decoder's maps are the encoder's, transposed: half the parameters, so at equal size twice the channels."""
    scale: Literal["spread", "delta"] = "spread"
    """Unit of a factor's weights. `spread`: their standard deviation over the training LoRAs. `delta`: what changes ΔW
    by one, so that equal errors count equally in ΔW."""
    local: bool = True
    """Separate maps for every chunk or token; else one kernel for all chunks, or one map for all tokens of a shape."""
    variational: bool = False
    """`conv` and `token` predict a variance beside each latent."""
    token_of: Literal["module", "block"] = "module"
    """token: what one token is."""
    heads: PositiveInt = 4
    """token: attention heads."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.tokens % self.groups:
            raise ValueError(
                f"The LAE's groups must divide its tokens, found {self.groups} groups, {self.tokens} tokens."
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"The LAE's residual kernel must be odd to keep the length, found {self.kernel}.")
        if self.kind == "token" and self.hidden % self.heads:
            raise ValueError(f"The LAE's heads must divide its hidden width, found {self.heads} and {self.hidden}.")
        if self.variational and self.kind in BASELINES:
            raise ValueError(f"Only the networks conv and token can be variational, found kind {self.kind!r}.")
