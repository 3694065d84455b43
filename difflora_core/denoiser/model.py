"""MIF and DiT as one module: what is trained, and what is sampled with."""

import torch
from torch import Tensor, nn

from .dit import DiT, DiTConfig
from .mif import MIF, MIFConfig


class Denoiser(nn.Module):
    """MIF and DiT as one module, so that they train as one."""

    def __init__(self, dit: DiTConfig, mif: MIFConfig) -> None:
        super().__init__()
        self.dit, self.mif = DiT(dit), MIF(mif)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, face: Tensor | None, image: Tensor | None, dropped: Tensor
    ) -> Tensor:
        """x0; dropped: (batch,) bool, who gets the null condition."""
        condition, _ = self.mif(face, image)
        condition = torch.where(dropped[:, None], self.mif.null.to(condition.dtype), condition)
        return self.dit(noisy, timesteps, condition)
