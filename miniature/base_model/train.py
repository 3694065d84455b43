"""Stage `base`: encode all training images once, then train U-Net and text encoders on the latents.

The color of an iris is decided at little noise and in two or three latents, so a plain mean over timesteps and places
hardly trains it: errors at the eyes weigh more, more timesteps are drawn at little noise, a second run draws most of
them there, and a third one trains the U-Net alone, mostly for eyes. (A drawing noised to timestep 300 of 1,000 and
denoised by the first run's model keeps the color of its eyes in 73 % of cases, from timestep 600 in 31 %.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
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
from miniature.world.scenes import Scene, caption, training_scene
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
BATCH = 16


@dataclass(frozen=True)
class LittleNoise:
    """How many timesteps are drawn where there is little noise; the others are drawn from all 1,000."""

    below: int
    """These timesteps are below this number."""
    share: float
    """Of all timesteps."""

    def lower(self, timesteps: Tensor, generator: torch.Generator) -> Tensor:
        """Scale that share of timesteps, int64 (count,) of all 1,000, into the range below the number."""
        little = torch.rand(len(timesteps), generator=generator) < self.share
        return torch.where(little, timesteps * self.below // 1000, timesteps)


@dataclass(frozen=True)
class PlaceWeights:
    """What places of an image weigh in the loss beside 1 everywhere."""

    eyes: float
    """An eye's middle."""
    width: float
    """Of the Gaussian around it, in pixels."""
    face: float = 0.0
    """The face's box."""


EYES, EYES_AND_FACE = PlaceWeights(6.0, 7.0), PlaceWeights(25.0, 5.0, face=3.0)
"""Of all trainings on latents; and of the base model's last run."""


@dataclass(frozen=True)
class Run:
    """One of the trainings that the base model goes through."""

    name: str
    """Of its state in the build folder."""
    config: TrainConfig
    little_noise: LittleNoise
    places: PlaceWeights = EYES
    text_encoders: bool = True
    """Whether they are trained beside the U-Net."""


RUNS = (
    Run("base", CONFIG, LittleNoise(300, 0.3)),
    Run(
        "base_detail",
        replace(CONFIG, steps=5000, learning_rate=5e-4, warmup=50, ema=0.999, seed=2),
        LittleNoise(500, 0.6),
    ),
    Run(
        "base_eyes",
        replace(CONFIG, steps=7500, learning_rate=6e-4, warmup=100, ema=0.999, seed=7),
        LittleNoise(550, 0.85),
        EYES_AND_FACE,
        text_encoders=False,
    ),
)
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


def loss_weights(index: int, image: int, places: PlaceWeights = EYES) -> Tensor:
    """Weights (1, 16, 16), mean 1, of the latents of a person's n-th training image."""
    return scene_weights(index, training_scene(index, image), places)


@cache
def scene_weights(index: int, scene: Scene, places: PlaceWeights = EYES) -> Tensor:
    """Weights (1, 16, 16), mean 1, of the latents of a person in a scene: more where the eyes are, or the face."""
    landmarks, (left, top, right, bottom) = landmarks_and_box(person(index), scene)
    middles = torch.arange(LATENT_SIZE) * (IMAGE_SIZE / LATENT_SIZE) + 0.5 * IMAGE_SIZE / LATENT_SIZE
    columns, rows = middles[None, :], middles[:, None]
    weights = torch.ones(LATENT_SIZE, LATENT_SIZE)
    for x, y in landmarks[:2].tolist():
        squares = (columns - x).square() + (rows - y).square()
        weights += places.eyes * torch.exp(-squares / (2 * places.width**2))
    weights += places.face * ((columns > left) & (columns < right) & (rows > top) & (rows < bottom))
    return (weights / weights.mean())[None]


def train_base(build: Path, tokenizer: Path, processes: int) -> None:
    """Train all of `RUNS`, one after another; the last one's state is that of the base model (all are resumable)."""
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
    torch.manual_seed(1)
    model = TinySDXL(used_tokens(tokenizer))
    for run in RUNS:
        train_run(run, model, tokenizer, build)


def train_run(run: Run, model: TinySDXL, tokenizer: Tokenizer, build: Path) -> None:
    """Train a base model in place on the latents in build/latents, or resume; it then holds the EMA weights."""
    model.train().requires_grad_(True)
    model.freeze_unused()
    if not run.text_encoders:
        model.text_l.requires_grad_(False)
        model.text_g.requires_grad_(False)
    model.unet.set_attn_processor(AttnProcessor())  # torch's own attention is slow backwards on a CPU: 1.3 × a step
    train(_Predictor(model), BaseLoss(run, tokenizer, build), run.config, build, run.name)


class BaseLoss:
    """The diffusion loss on random images of training people with their captions."""

    def __init__(self, run: Run, tokenizer: Tokenizer, build: Path) -> None:
        self.run, self.tokenizer, self.scheduler = run, tokenizer, noise_scheduler()
        latents = load_latents(build)
        self.blocks = [block for block in training_blocks() if block.name in latents]
        self.latents = [latents[block.name] for block in self.blocks]
        self.images = [
            (b, p, k)
            for b, block in enumerate(self.blocks)
            for p in range(len(block.people))
            for k in range(block.images)
        ]

    def __call__(self, model: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a random batch, and its mean square without weights."""
        clean, weights, texts = self._images(generator)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (BATCH,), generator=generator)
        timesteps = self.run.little_noise.lower(timesteps, generator)
        target = self.scheduler.get_velocity(clean, noise, timesteps)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        squares = (model(noisy, timesteps, self.tokenizer(texts)) - target).square()
        return (squares * weights).mean(), {"mse": float(squares.detach().mean())}

    def _images(self, generator: torch.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """Latents (batch, 16, 16, 16), loss weights (batch, 1, 16, 16) and captions of random images."""
        picks = torch.randint(0, len(self.images), (BATCH,), generator=generator).tolist()
        chances = torch.rand(BATCH, 3, generator=generator).tolist()
        rows, weights, texts = [], [], []
        for pick, (whole, shirt, background) in zip(picks, chances, strict=True):
            b, p, k = self.images[pick]
            who = self.blocks[b].people[p]
            rows.append(self.latents[b][p, k])
            weights.append(loss_weights(who, k, self.run.places))
            drop = {n for n, chance in (("shirt", shirt), ("background", background)) if chance < DROP_CLAUSE}
            texts.append("" if whole < DROP_CAPTION else caption(training_scene(who, k), frozenset(drop)))
        return torch.stack(rows).float(), torch.stack(weights), texts


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
    load_trained(predictor, build, RUNS[-1].name)
    return predictor.model.eval().requires_grad_(False), tokens
