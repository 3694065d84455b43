"""InstantID's Resampler for the drawn world: from its tokens of a face a linear map predicts the person's traits.

It is trained alone, on other people than the rest of InstantID, and then frozen. Trained together, it would learn late,
since keys and values are of no use before its tokens say something. Trained on the same people, it would describe those
better than others, and the rest would learn to rely on it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn

from difflora_core.files import read_tensors, write_tensors
from miniature.world.people import TRAITS
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.instantid.instantid_files import DEPTH, HEAD

from .faces.alignment import aligned_crop, alignment
from .faces.face_analysis import load_face_analysis
from .faces.face_images import FaceImages

WIDTH, QUERIES, FACE_WIDTH = 64, 4, 512
"""Of the Resampler, its tokens, the face embedding."""
TOKEN_SCALE = 0.21
"""Standard deviation of the base model's text conditions, which keys and values were made for."""
TOKEN_FACTOR = 8.0
"""Tokens are larger by this factor, and the keys and values start smaller by it: these then learn faster by it."""
BATCH = 128
CONFIG = TrainConfig(steps=600, learning_rate=2e-3, warmup=30, ema=0.99, save_every=200, seed=8)


def initial_resampler(context: int) -> IPAdapterPlusImageProjection:
    """Make a random Resampler, whose tokens (faces, 4, context) have TOKEN_FACTOR × TOKEN_SCALE."""
    torch.manual_seed(7)
    resampler = IPAdapterPlusImageProjection(
        embed_dims=FACE_WIDTH,
        output_dims=context,
        hidden_dims=WIDTH,
        depth=DEPTH,
        heads=WIDTH // HEAD,
        num_queries=QUERIES,
    )
    nn.init.constant_(resampler.norm_out.weight, TOKEN_FACTOR * TOKEN_SCALE)
    return resampler


class TraitPredictor(nn.Module):
    """The Resampler with a linear map from its tokens to traits."""

    def __init__(self, resampler: IPAdapterPlusImageProjection) -> None:
        super().__init__()
        self.resampler = resampler
        self.traits = nn.Linear(QUERIES * resampler.proj_out.out_features, len(TRAITS))

    def forward(self, faces: Tensor) -> Tensor:
        """Face embeddings (faces, 512) → traits (faces, 26)."""
        found: Tensor = self.traits(self.resampler(faces[:, None]).flatten(1))
        return found


def train_resampler(resampler: IPAdapterPlusImageProjection, faces: Tensor, traits: Tensor, folder: Path) -> None:
    """Train a Resampler in place (resumable).

    Args:
        resampler: Of `initial_resampler`.
        faces: Embeddings (people, images, 512).
        traits: Of these people (people, 26).
        folder: Of the state and the log.
    """

    def loss(model: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        people = torch.randint(0, len(faces), (BATCH,), generator=generator)
        images = torch.randint(0, faces.shape[1], (BATCH,), generator=generator)
        return (model(faces[people, images]) - traits[people]).square().mean(), {}

    torch.manual_seed(7)  # of the linear map
    train(TraitPredictor(resampler), loss, CONFIG, folder, "resampler")


def reference_faces(images: FaceImages, count: int, path: Path) -> Tensor:
    """Embed people's first images, as the recognizer gives them: float32 (people, count, 512); kept in a file."""
    if not path.exists():
        recognizer, rows = load_face_analysis("miniature").models["recognition"], []
        for row in range(len(images.people)):
            transforms = alignment(images.landmarks[row, :count])
            crops = [aligned_crop(images.image(row, k), transforms[k])[..., ::-1] for k in range(count)]
            rows.append(torch.from_numpy(recognizer.get_feat(crops)))
        write_tensors(path, {"faces": torch.stack(rows)})
    return read_tensors(path)[0]["faces"]


def official_names(resampler: nn.Module) -> dict[str, Tensor]:
    """Return diffusers' Resampler under the names of the official file, whose keys and values are one matrix."""
    state, renamed = resampler.state_dict(), {}
    for ours, official in (
        (".ln0.", ".0.norm1."),
        (".ln1.", ".0.norm2."),
        (".attn.to_out.0.", ".0.to_out."),
        (".attn.", ".0."),
        (".ff.0.", ".1.0."),
        (".ff.1.net.0.proj.", ".1.1."),
        (".ff.1.net.2.", ".1.3."),
    ):
        state = {name.replace(ours, official): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        if ".to_k." in name:
            renamed[name.replace(".to_k.", ".to_kv.")] = torch.cat([tensor, state[name.replace(".to_k.", ".to_v.")]])
        elif ".to_v." not in name:
            renamed[name] = tensor
    return renamed
