"""The shape of a LoRA weight autoencoder; `lae` has the autoencoder itself."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LAEConfig:
    """Shape of the autoencoder. ``tokens`` × ``width`` is the latent; the rest describes the network.

    kind: ``conv``, 1-D convolutions over the flat vector, as in the paper; ``token``, a transformer over modules or
    blocks. Baselines: ``linear``, principal component analysis, and ``flat``, convolutions that share all kernels.
    channels: codes per chunk or token; groups: positions of the stage between codes and latent (must divide
    ``tokens``, and the number of modules or blocks of ``token``). Parameters grow as
    ``2 · numel · channels + 2 · units · channels · tokens · width / groups`` with units = chunks, modules or blocks,
    so real LoRAs need groups; as few as the training LoRAs allow, since a group can't learn more latents than there are
    LoRAs (miniature as fitted, 280 numbers by ``token``: R² .54 with 1 group, .45 with 10, .25 with 70).
    tied: the decoder's maps are the encoder's, transposed, which halves the parameters: at equal size twice the
    channels.
    local: own maps at every chunk or token; else one kernel for all chunks, or one map for all tokens of one shape.
    conv: chunk, numbers under one kernel of the first stage; hidden, kernel, blocks: the residual convolutions.
    token: token_of, what one token is; hidden, heads, blocks: width, heads and layers of a transformer in the encoder
    and of another in the decoder. flat: hidden is the most channels, kernel how far a kernel is longer than its stride.
    scale: unit of a factor's numbers; ``spread`` is their standard deviation over the training LoRAs, ``delta`` is
    what moves ΔW by one (so that equal errors weigh equally in ΔW).
    variational: ``conv`` and ``token`` predict a variance beside each latent.
    """

    kind: Literal["conv", "token", "flat", "linear"] = "conv"
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
    local: bool = True
    variational: bool = False
    token_of: Literal["module", "block"] = "module"
    heads: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "token", "flat", "linear"):
            raise ValueError(f"The LAE's kind is conv, token, flat or linear, found {self.kind!r}.")
        if self.tokens < 1 or self.width < 1:
            raise ValueError(f"The LAE's latent needs tokens and width ≥ 1, found {self.tokens} × {self.width}.")
        if self.tokens % self.groups:
            raise ValueError(
                f"The LAE's groups must divide its tokens, found {self.groups} groups, {self.tokens} tokens."
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"The LAE's residual kernel must be odd to keep the length, found {self.kernel}.")
        if self.kind == "token" and self.hidden % self.heads:
            raise ValueError(f"The LAE's heads must divide its hidden width, found {self.heads} and {self.hidden}.")
        if self.variational and self.kind in ("flat", "linear"):
            raise ValueError(f"Only the networks conv and token can be variational, found kind {self.kind!r}.")
