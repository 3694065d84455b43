"""IdentityNet: a stock SDXL ControlNet whose cross-attention sees the face's tokens in place of the text."""

from typing import Any

from diffusers import ControlNetModel
from torch import Tensor


class IdentityNet(ControlNetModel):
    """diffusers' ControlNet, for its own pipelines, which give it the text."""

    face_tokens: Tensor
    """(batch, tokens, width), as the pipeline's batch: with guidance those without a face first."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        """See the base class; `encoder_hidden_states` is not used."""
        return super().forward(sample, timestep, self.face_tokens.to(sample), *args, **named)
