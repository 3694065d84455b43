"""Stage `base`: encode all training images once, then train U-Net and text encoders on the latents.

The color of an iris is decided at little noise and in two or three latents, so a plain mean over timesteps and places
hardly trains it: errors at the eyes weigh more, more timesteps are drawn at little noise, and a second run draws most
of them there. (A drawing noised to timestep 300 of 1,000 and denoised by the first run's model keeps the color of its
eyes in 73 % of cases, from timestep 600 in 31 %.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from difflora_core.files import write_tensors
from miniature.world.drawing import landmarks_and_box
from miniature.world.image_blocks import Block, load_block, training_blocks
from miniature.world.people import person
from miniature.world.scenes import caption, training_scene
from training.engine.config import TrainConfig
from training.engine.loop import load_trained, train
from training.engine.processes import in_processes

from .config import IMAGE_SIZE, LATENT_SIZE
from .model import TinySDXL, Tokenizer, noise_scheduler, used_tokens
from .train_vae import load_vae
from .vae import TinyVAE

CONFIG = TrainConfig(
    steps=14000,
    learning_rate=1e-3,
    warmup=200,
    weight_decay=0.01,
    ema=0.9996,
    save_every=250,
    seed=1,
    mixed_precision="bf16",
)
DETAIL_CONFIG = replace(CONFIG, steps=5000, learning_rate=5e-4, warmup=50, ema=0.999, seed=2)
DETAIL_RUN = "base_detail"
BATCH = 16


@dataclass(frozen=True)
class LittleNoise:
    """How many timesteps are drawn where there is little noise; the others are drawn from all 1,000."""

    below: int
    """These timesteps are below this number."""
    share: float
    """Of all timesteps."""


LITTLE_NOISE, DETAIL_LITTLE_NOISE = LittleNoise(300, 0.3), LittleNoise(500, 0.6)
"""Of the first run, and of the second."""
EYE_WEIGHT, EYE_WIDTH = 6.0, 7.0
"""What an eye's middle weighs in the loss beside 1 everywhere, and the Gaussian's width in pixels."""
DROP_CAPTION, DROP_CLAUSE = 0.1, 0.15
"""Probabilities of an empty caption, and of leaving out shirt or background."""


def encode_block(build: Path, block: Block, vae: TinyVAE | None = None) -> None:
    """Write the latents of a block's images, unless they are there: float16 (people, images, 16, 16, 16).

    Args:
        build: The scratch folder.
        block: With its images drawn.
        vae: The autoencoder; None: the scratch folder's.
    """
    path = build / "latents" / f"{block.name}.safetensors"
    if path.exists():
        return
    vae = vae or load_vae(build)
    rows = [vae.encode_images(person).half() for person in load_block(build / "images", block)]
    write_tensors(path, {"latents": torch.stack(rows)})


def load_latents(build: Path) -> dict[str, Tensor]:
    """All latents that `encode_block` has written, by the block's name: float16 (people, images, 16, 16, 16)."""
    return {path.stem: load_file(path)["latents"] for path in sorted((build / "latents").glob("*.safetensors"))}


@cache
def loss_weights(index: int, image: int) -> Tensor:
    """Weights (1, 16, 16), mean 1, of the latents of a person's n-th training image: more where the eyes are."""
    landmarks, _ = landmarks_and_box(person(index), training_scene(index, image))
    places = torch.arange(LATENT_SIZE) * (IMAGE_SIZE / LATENT_SIZE) + 0.5 * IMAGE_SIZE / LATENT_SIZE
    weights = torch.ones(LATENT_SIZE, LATENT_SIZE)
    for x, y in landmarks[:2].tolist():
        squares = (places[None, :] - x).square() + (places[:, None] - y).square()
        weights += EYE_WEIGHT * torch.exp(-squares / (2 * EYE_WIDTH**2))
    return (weights / weights.mean())[None]


def train_base(build: Path, tokenizer: Path, processes: int) -> None:
    """Train to build/base.safetensors, then to build/base_detail.safetensors (both resumable)."""
    in_processes(_train_in_process, processes, build, tokenizer)


def _encode_all(build: Path, rank: int, processes: int) -> None:
    mine = training_blocks()[rank::processes]
    for block in tqdm(mine, desc="latents", disable=rank > 0):
        encode_block(build, block)
    if processes > 1:
        dist.barrier()


def _train_in_process(rank: int, processes: int, build: Path, tokenizer_folder: Path) -> None:
    _encode_all(build, rank, processes)
    tokenizer = Tokenizer(tokenizer_folder)
    latents = load_latents(build)
    blocks = [block for block in training_blocks() if block.name in latents]
    images = [
        (b, p, k) for b, block in enumerate(blocks) for p in range(len(block.people)) for k in range(block.images)
    ]
    scheduler = noise_scheduler()

    def loss(
        little_noise: LittleNoise, model: nn.Module, _: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        picks = torch.randint(0, len(images), (BATCH,), generator=generator).tolist()
        chances = torch.rand(BATCH, 3, generator=generator).tolist()
        rows, texts, weights = [], [], []
        for pick, (whole, shirt, background) in zip(picks, chances, strict=True):
            b, p, k = images[pick]
            rows.append(latents[blocks[b].name][p, k])
            weights.append(loss_weights(blocks[b].people[p], k))
            drop = {n for n, chance in (("shirt", shirt), ("background", background)) if chance < DROP_CLAUSE}
            texts.append(
                "" if whole < DROP_CAPTION else caption(training_scene(blocks[b].people[p], k), frozenset(drop))
            )
        clean = torch.stack(rows).float()
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (BATCH,), generator=generator)
        little = torch.rand(BATCH, generator=generator) < little_noise.share
        timesteps = torch.where(little, timesteps * little_noise.below // 1000, timesteps)
        target = scheduler.get_velocity(clean, noise, timesteps)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        squares = (model(noisy, timesteps, tokenizer(texts)) - target).square()
        return (squares * torch.stack(weights)).mean(), {"mse": float(squares.detach().mean())}

    torch.manual_seed(1)
    model = TinySDXL(used_tokens(tokenizer))
    model.freeze_unused()
    model.unet.set_attn_processor(AttnProcessor())  # torch's own attention is slow backwards on a CPU: 1.3 × a step
    predictor = _Predictor(model)
    train(predictor, partial(loss, LITTLE_NOISE), CONFIG, build, "base")
    train(predictor, partial(loss, DETAIL_LITTLE_NOISE), DETAIL_CONFIG, build, DETAIL_RUN)


class _Predictor(nn.Module):
    """Text encoders and U-Net as one forward pass, so that gradients are averaged over processes."""

    def __init__(self, model: TinySDXL) -> None:
        super().__init__()
        self.model = model

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: tuple[Tensor, Tensor]) -> Tensor:
        """Predict v from noisy latents, timesteps and token ids, as `TinySDXL.predict`."""
        return self.model.predict(noisy, timesteps, self.model.encode(ids))


def load_base(build: Path, tokenizer: Tokenizer) -> tuple[TinySDXL, Tensor]:
    """The trained base model (EMA) with its compact vocabulary, for inference, and the ids of that vocabulary."""
    tokens = used_tokens(tokenizer)
    predictor = _Predictor(TinySDXL(tokens))
    load_trained(predictor, build, DETAIL_RUN)
    return predictor.model.eval().requires_grad_(False), tokens
