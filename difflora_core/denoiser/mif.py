"""Mixed image features (MIF): face and image embedding, weighted by a gate, become one condition.

The paper takes a frozen face encoder and a frozen image encoder and mixes their features with a gate network inspired
by mixture of experts. Widths, the projections and the gate's shape are our choice.
"""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MIFConfig, Mode


@dataclass(frozen=True)
class MixedCondition:
    """One person's condition, and how much of it comes from which embedding."""

    condition: Tensor
    """(1, width), what the DiT takes."""
    face_weight: float
    """The face's share, 0 to 1."""
    image_weight: float
    """The image's share; both sum to 1."""


class Expert(nn.Module):
    """A projection of one encoder's embeddings."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.project = nn.Sequential(
            nn.Linear(in_features, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project embeddings (batch, in_features) to (batch, width)."""
        projected: Tensor = self.project(embeddings)
        return projected


class MIF(nn.Module):
    """Frozen encoders' embeddings → conditions (batch, width)."""

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
        """Mix the embeddings of a batch of people.

        Args:
            face: (batch, face_width), or None: in the modes `gate` and `mean` it then has no weight.
            image: (batch, image_width), or None: as for `face`.
            mode: None takes the configuration's.
            image_share: The image's weight, 0 to 1, in place of the gate's.

        Returns:
            The condition (batch, width), and the weights (batch, 2) of face and image.

        Raises:
            ValueError: An embedding has another width, the share is outside 0 to 1, there is no such mode, its
                embedding is missing, or it needs what was not trained in the configuration's.
        """
        mode = mode or self.config.mode
        self.check_mode(mode, image_share)
        self._check(face, image, image_share)
        if mode == "face" or image is None:
            if face is None or mode == "image":
                needed = "an image" if mode == "image" else "a face"
                raise ValueError(f"MIF mode {mode!r} needs {needed} embedding, found none.")
            return self.face(face), _weights(face, 1.0, 0.0)
        if mode == "image" or face is None:
            return self.image(image), _weights(image, 0.0, 1.0)
        experts = torch.stack([self.face(face), self.image(image)], dim=1)  # (batch, 2, width)
        if mode == "mean" and image_share is None:
            image_share = 0.5
        if image_share is None:
            weights = self.gate(experts.flatten(1)).softmax(-1)
        else:
            weights = _weights(face, 1.0 - image_share, image_share)
        return (weights.unsqueeze(-1) * experts).sum(1), weights

    def check_mode(self, mode: Mode, image_share: float | None = None) -> None:
        """Refuse an unknown mode, or one that needs untrained layers.

        `mean` trains no gate, `face` and `image` one expert each.

        Raises:
            ValueError: It is one.
        """
        if mode not in get_args(Mode):
            raise ValueError(f"MIF's modes are {', '.join(get_args(Mode))}, found {mode!r}.")
        trained = self.config.mode
        if trained == "gate" or mode == trained or (trained == "mean" and (mode != "gate" or image_share is not None)):
            return
        instead = " or an image share of 0.5" if trained == "mean" else ""
        raise ValueError(
            f"MIF mode {mode!r} needs layers that this model has not trained, since its mode was {trained!r}: choose "
            f"mode {trained!r}{instead}."
        )

    def _check(self, face: Tensor | None, image: Tensor | None, image_share: float | None) -> None:
        if image_share is not None and not 0.0 <= image_share <= 1.0:
            raise ValueError(f"The image's share is between 0 and 1, found {image_share}.")
        for name, expert, embedding in (("face", self.face, face), ("image", self.image, image)):
            if embedding is not None and embedding.shape[-1] != expert.in_features:
                raise ValueError(
                    f"The {name} embedding has width {embedding.shape[-1]}, this model was trained with "
                    f"{expert.in_features}: use the encoder that the checkpoint names."
                )


def _weights(like: Tensor, face: float, image: float) -> Tensor:
    return torch.tensor([face, image], device=like.device, dtype=like.dtype).expand(len(like), 2)


def mean_embedding(embeddings: Tensor) -> Tensor:
    """Average the embeddings of one person's images: the unit-length mean of unit-length rows.

    Args:
        embeddings: (images, width).

    Returns:
        (1, width).

    Raises:
        ValueError: There is no embedding, or one holds NaN or nothing but zeros; the first is named.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"Embeddings are (images, width) with at least one reference image, found {tuple(embeddings.shape)}."
        )
    finite = embeddings.isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"The embedding of reference image {int((~finite).nonzero()[0]) + 1} of {len(embeddings)} holds NaN or "
            "infinite values: encode that image again, or leave it out."
        )
    empty = (embeddings == 0).all(1)
    if empty.any():
        raise ValueError(
            f"The embedding of reference image {int(empty.nonzero()[0]) + 1} of {len(embeddings)} is zero "
            "throughout: nothing was encoded. Encode that image again, or leave it out."
        )
    return F.normalize(F.normalize(embeddings, dim=-1).mean(0, keepdim=True), dim=-1)
