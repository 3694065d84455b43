"""Stage `control`: train the Control-LoRA on Canny edges of the training people's pictures."""

from pathlib import Path

import numpy as np
import torch
from kornia.filters import canny
from torch import Tensor, nn
from tqdm import tqdm

from miniature.world.image_blocks import Block, load_block, scene_of, training_blocks
from miniature.world.people import caption
from training.engine.loop import TrainConfig, train
from training.engine.processes import in_processes

from .checkpoint import load_checkpoint
from .control_lora import ControlLoRA, write_control
from .model import BaseModel, Tokenizer, load_latents, noise_scheduler
from .train import encode_block

NAME = "miniature_canny.safetensors"
BLOCKS = 10
THRESHOLDS = ((0.1, 0.2), (0.2, 0.4))
"""Of ComfyUI's node Canny: lines of the finer and of the coarser kind take turns."""
TRAINING = TrainConfig(steps=4000, learning_rate=2e-3, warmup=100, ema=0.998, save_every=250, seed=6)
BATCH = 8
DROP_CAPTION = 0.3
"""More often than for the base model, so that edges must say what the caption does not."""


def edges(pictures: np.ndarray, low: float, high: float) -> np.ndarray:
    """What ComfyUI's node Canny makes of uint8 pictures (n, height, width, 3): bool (n, height, width)."""
    pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255.0
    return canny(pixels, low, high)[1][:, 0].bool().numpy()


def edge_block(build: Path, block: Block) -> None:
    """Edges of a block's pictures, unless they are there: bool (people, pictures, 128, 128)."""
    path = build / "edges" / f"{block.name}.npy"
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    found = [
        edges(person, *THRESHOLDS[number % len(THRESHOLDS)])
        for number, person in enumerate(load_block(build / "pictures", block))
    ]
    partial = path.with_suffix(".partial.npy")
    np.save(partial, np.stack(found))
    partial.replace(path)


def train_control(build: Path, weights: Path, tokenizer: Path, processes: int) -> None:
    """Train to build/control.safetensors (resumable), and write weights/controlnet/miniature_canny.safetensors."""
    in_processes(_work, processes, build, weights, tokenizer)


def _work(rank: int, processes: int, build: Path, weights: Path, tokenizer_folder: Path) -> None:
    blocks = training_blocks()[:BLOCKS]
    (build / "latents").mkdir(exist_ok=True)
    for block in tqdm(blocks[rank::processes], desc="edges", disable=rank > 0):
        encode_block(build / "pictures", build / "latents", block)
        edge_block(build, block)
    torch.distributed.barrier()
    base, _ = load_checkpoint(weights)
    torch.manual_seed(6)
    control = ControlLoRA(base.unet)
    loss = ControlLoss(build, base, Tokenizer(tokenizer_folder))
    train(control, loss, TRAINING, build, "control")
    if rank == 0:
        write_control(control, weights / "controlnet" / NAME)


class ControlLoss:
    """The base model's denoising loss with the ControlNet's residuals in its skip connections."""

    def __init__(self, build: Path, base: BaseModel, tokenizer: Tokenizer) -> None:
        self.base, self.tokenizer, self.scheduler = base, tokenizer, noise_scheduler()
        self.blocks = training_blocks()[:BLOCKS]
        latents = load_latents(build / "latents")
        self.latents = [latents[block.name] for block in self.blocks]
        self.edges = [np.load(build / "edges" / f"{block.name}.npy", mmap_mode="r") for block in self.blocks]

    def __call__(self, control: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows, hints, texts = [], [], []
        for block, person, picture, drop in torch.randint(0, 2**30, (BATCH, 4), generator=generator).tolist():
            block, person = block % len(self.blocks), person % len(self.blocks[0].people)
            picture %= self.blocks[0].pictures
            rows.append(self.latents[block][person, picture])
            hints.append(torch.from_numpy(np.array(self.edges[block][person, picture])))
            scene = scene_of(self.blocks[block].people[person], picture)
            texts.append("" if drop < DROP_CAPTION * 2**30 else caption(scene))
        clean = torch.stack(rows).float()
        hint = torch.stack(hints).float()[:, None].expand(-1, 3, -1, -1)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (BATCH,), generator=generator)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        with torch.no_grad():
            condition = self.base.encode(self.tokenizer(texts))
        predicted = self.base.predict(noisy, timesteps, condition, control(noisy, timesteps, condition, hint))
        target = self.scheduler.get_velocity(clean, noise, timesteps)
        return (predicted - target).square().mean(), {}
