"""PhotoMaker v1's identity encoder as our own module.

It turns reference images into embeddings of the width of SDXL's text embedding and fuses each with the embedding of the
class word; the results take the class word's place in the prompt (Li et al., arXiv 2312.04461, section 3). Names of
tensors are those of the public file, because they are its interface. Sizes are taken from the shapes.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = "vision_model.embeddings.position_ids"  # a constant that older versions of transformers wrote
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class MLP(nn.Module):
    """Layer norm, linear, GELU, linear, and with `residual` the input added: (..., width) → (..., out)."""

    def __init__(self, width: int, hidden: int, out: int, residual: bool) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Transform (..., width)."""
        change = self.fc2(F.gelu(self.fc1(self.layernorm(x))))
        return x + change if self.residual else change


class FuseModule(nn.Module):
    """Fuses class word and identity, both (..., width), into one embedding (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp1 = MLP(2 * width, width, width, residual=False)
        self.mlp2 = MLP(width, width, width, residual=True)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, word: Tensor, identity: Tensor) -> Tensor:
        """Fuse embeddings of the class word and of references, both (..., width)."""
        mixed = self.mlp1(torch.cat([word, identity], dim=-1)) + word
        return self.layer_norm(self.mlp2(mixed))


class IdEncoder(nn.Module):
    """CLIP vision tower with two projections, one per text encoder, and the fuse module."""

    def __init__(self, vision: Mapping[str, Any], projections: tuple[int, int]) -> None:
        """Make an untrained encoder.

        Args:
            vision: Arguments of `transformers.CLIPVisionConfig`.
            projections: Widths of both text encoders.
        """
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(**vision, projection_dim=projections[0])
        self.size = int(config.image_size)
        self.projections = projections
        self.vision_model = CLIPVisionModelWithProjection(config).vision_model
        self.visual_projection = nn.Linear(config.hidden_size, projections[0], bias=False)
        self.visual_projection_2 = nn.Linear(config.hidden_size, projections[1], bias=False)
        self.fuse_module = FuseModule(sum(projections))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Make the encoder that a state dict of the public layout belongs to, with its weights in float32.

        Raises:
            ValueError: A tensor is missing, unknown, of another shape, or not finite; the first one is named.
        """
        state = {name: tensor for name, tensor in state.items() if name != IGNORED}
        vision, projections = encoder_sizes(state)
        with torch.device("meta"):
            module = cls(vision, projections)
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        unknown, missing = sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())
        if unknown or missing:
            word, names = ("unknown", unknown) if unknown else ("missing", missing)
            raise ValueError(f"{len(names)} tensors of PhotoMaker's identity encoder are {word}, first {names[0]}")
        for name, shape in expected.items():
            if tuple(state[name].shape) != shape:
                raise ValueError(
                    f"{name} of PhotoMaker's identity encoder is {tuple(state[name].shape)}, expected {shape}"
                )
            if not state[name].isfinite().all():
                raise ValueError(f"{name} of PhotoMaker's identity encoder holds NaN or infinite values")
        module = cls(vision, projections)
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        return module.eval().requires_grad_(False)

    def embed(self, pixels: Tensor) -> Tensor:
        """Embed normalized images (n, 3, size, size): identity embeddings (n, width of both text encoders)."""
        return self.project(self.pool(pixels))

    def pool(self, pixels: Tensor) -> Tensor:
        """Return the vision tower's pooled features (n, width) of normalized images (n, 3, size, size)."""
        return self.vision_model(pixel_values=pixels).pooler_output

    def project(self, pooled: Tensor) -> Tensor:
        """Project pooled features (..., width) to identity embeddings (..., width of both text encoders)."""
        return torch.cat([self.visual_projection(pooled), self.visual_projection_2(pooled)], dim=-1)

    def fuse(self, context: Tensor, positions: Tensor, identity: Tensor) -> Tensor:
        """Put the identity in the class word's place.

        Args:
            context: Text embeddings (prompts, tokens, width).
            positions: Where the class word stands, n times in a row: int64 (prompts, n).
            identity: Embeddings (prompts, n, width) of n references.

        Returns:
            New text embeddings (prompts, tokens, width).
        """
        rows = positions[..., None].expand(-1, -1, context.shape[-1])
        words = context.gather(1, rows)
        fused = self.fuse_module(words.to(identity.dtype), identity)
        return context.scatter(1, rows, fused.to(context.dtype))

    def preprocess(self, image: Tensor) -> Tensor:
        """Resize a square image (3, side, side) in [0, 1] to (3, size, size) and normalize it by CLIP's statistics."""
        if image.shape[-1] != self.size:
            image = F.interpolate(image[None], size=self.size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        return (image - mean) / std


def encoder_sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return the vision tower's configuration and both projections' widths, from the shapes of a state dict.

    Shapes do not show the number of heads: CLIP's are 64 wide; towers narrower than 512 (the miniature's) have heads
    of 16.

    Raises:
        ValueError: A tensor that the sizes are read from is missing.
    """
    try:
        patches = state["vision_model.embeddings.patch_embedding.weight"].shape
        positions = state["vision_model.embeddings.position_embedding.weight"].shape[0]
        hidden = state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0]
        first, second = (state[f"{name}.weight"].shape[0] for name in ("visual_projection", "visual_projection_2"))
    except KeyError as error:
        found = next(iter(state), "none: it is empty")
        raise ValueError(
            f"PhotoMaker's identity encoder lacks {error.args[0]}; its first tensor is {found!r}"
        ) from error
    width, patch = int(patches[0]), int(patches[-1])
    layers = len({name.split(".")[3] for name in state if name.startswith("vision_model.encoder.layers.")})
    vision = {
        "hidden_size": width,
        "intermediate_size": int(hidden),
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // (64 if width >= 512 else 16)),
        "image_size": patch * round((positions - 1) ** 0.5),
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return vision, (int(first), int(second))
