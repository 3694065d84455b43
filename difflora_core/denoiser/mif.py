"""Mixed image features (MIF): face and image embedding, weighed by a gate, become one condition.

The paper takes a frozen face encoder and a frozen image encoder and mixes their features with a gate network inspired
by mixture of experts. Widths, the projections and the gate's shape are our choice.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Mode = Literal["gate", "mean", "face", "image"]
MODES: tuple[Mode, ...] = ("gate", "mean", "face", "image")


@dataclass(frozen=True)
class MIFConfig:
    """face_width, image_width: of the frozen encoders' embeddings. width: of the condition."""

    face_width: int = 512
    image_width: int = 64
    width: int = 256
    mode: Mode = "gate"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"MIF's mode is one of {', '.join(MODES)}, found {self.mode!r}.")


class Expert(nn.Module):
    """Projects one encoder's embedding: (batch, in) → (batch, width)."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.project = nn.Sequential(
            nn.Linear(in_features, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x)


class MIF(nn.Module):
    """Frozen embeddings → condition (batch, width)."""

    def __init__(self, config: MIFConfig) -> None:
        super().__init__()
        self.config = config
        self.face = Expert(config.face_width, config.width)
        self.image = Expert(config.image_width, config.width)
        self.gate = nn.Sequential(nn.Linear(2 * config.width, config.width), nn.SiLU(), nn.Linear(config.width, 2))
        self.null = nn.Parameter(0.02 * torch.randn(config.width))  # the condition of classifier-free guidance

    def forward(
        self, face: Tensor | None, image: Tensor | None, mode: Mode | None = None, image_share: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix embeddings of a batch of people.

        face: (batch, face_width) or None. image: (batch, image_width) or None. Modes `gate` and `mean` need both, but
        one that is absent simply gets no weight. image_share: the image's weight, 0 to 1, in place of the gate's.
        Returns the condition (batch, width) and the weights (batch, 2) of face and image. Raises ValueError for an
        embedding of another width, a share outside 0 to 1, or if the mode's expert is missing.
        """
        mode = mode or self.config.mode
        if image_share is not None and not 0.0 <= image_share <= 1.0:
            raise ValueError(f"The image's share is between 0 and 1, found {image_share}.")
        for name, expert, embedding in (("face", self.face, face), ("image", self.image, image)):
            if embedding is not None and embedding.shape[-1] != expert.in_features:
                raise ValueError(
                    f"The {name} embedding has width {embedding.shape[-1]}, this model was trained with "
                    f"{expert.in_features}: use the encoder that the checkpoint names."
                )
        if mode == "face" or image is None:
            if face is None or mode == "image":
                needed = "an image" if mode == "image" else "a face"
                raise ValueError(f"MIF mode {mode!r} needs {needed} embedding, found none.")
            return self.face(face), self._weights(face, 1.0, 0.0)
        if mode == "image" or face is None:
            return self.image(image), self._weights(image, 0.0, 1.0)
        experts = torch.stack([self.face(face), self.image(image)], dim=1)  # (batch, 2, width)
        if mode == "mean" and image_share is None:
            image_share = 0.5
        if image_share is None:
            weights = self.gate(experts.flatten(1)).softmax(-1)
        else:
            weights = self._weights(face, 1.0 - image_share, image_share)
        return (weights.unsqueeze(-1) * experts).sum(1), weights

    @staticmethod
    def _weights(like: Tensor, face: float, image: float) -> Tensor:
        return torch.tensor([face, image], device=like.device, dtype=like.dtype).expand(len(like), 2)


def mean_embedding(embeddings: Tensor) -> Tensor:
    """Several references (pictures, width) to one embedding (1, width): the unit-length mean of unit-length rows.

    Raises ValueError without a reference, or naming the first one whose embedding holds NaN or nothing but zeros.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"Embeddings are (pictures, width) with at least one reference picture, found {tuple(embeddings.shape)}."
        )
    finite = embeddings.isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"The embedding of reference picture {int((~finite).nonzero()[0]) + 1} of {len(embeddings)} holds NaN or "
            "infinite numbers: encode that picture again, or leave it out."
        )
    empty = (embeddings == 0).all(1)
    if empty.any():
        raise ValueError(
            f"The embedding of reference picture {int(empty.nonzero()[0]) + 1} of {len(embeddings)} is zero "
            "throughout: nothing was encoded. Encode that picture again, or leave it out."
        )
    unit = torch.nn.functional.normalize(embeddings, dim=-1)
    return torch.nn.functional.normalize(unit.mean(0, keepdim=True), dim=-1)
