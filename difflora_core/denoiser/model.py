"""MIF and DiT as one module, so that they train as one."""

import torch
from torch import Tensor, nn

from .config import DiTConfig, MIFConfig
from .dit import DiT
from .mif import MIF


class Denoiser(nn.Module):
    """Noisy latents and embeddings → clean latents."""

    def __init__(self, dit: DiTConfig, mif: MIFConfig) -> None:
        super().__init__()
        self.dit, self.mif = DiT(dit), MIF(mif)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, face: Tensor | None, image: Tensor | None, dropped: Tensor
    ) -> Tensor:
        """Predict x0 (batch, tokens, latent_width).

        Args:
            noisy: (batch, tokens, latent_width).
            timesteps: (batch,).
            face: (batch, face_width) or None.
            image: (batch, image_width) or None.
            dropped: bool (batch,), whose condition is replaced by the null condition.
        """
        condition, _ = self.mif(face, image)
        condition = torch.where(dropped[:, None], self.mif.null.to(condition.dtype), condition)
        clean: Tensor = self.dit(noisy, timesteps, condition)
        return clean
