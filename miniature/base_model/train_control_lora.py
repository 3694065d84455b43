"""Stage `control`: train the Control-LoRA on Canny edges of the training people's images."""

from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from kornia.filters import canny
from torch import Tensor, nn
from tqdm import tqdm

from miniature.world.image_blocks import RANDOM, Block, load_block, random_images, training_blocks, write_array
from miniature.world.scenes import caption, training_scene
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.engine.processes import in_processes

from .checkpoint import load_checkpoint
from .control_lora import ControlLoRA, write_control
from .model import TinySDXL, Tokenizer, noise_scheduler
from .train import encode_block, load_latents
from .vae import to_pixels

NAME = "miniature_canny.safetensors"
BLOCKS = 10
"""Image blocks that are trained on."""
THRESHOLDS = ((0.1, 0.2), (0.2, 0.4))
"""Low and high threshold of ComfyUI's node Canny; people take turns between finer and coarser lines."""
TRAINING = TrainConfig(steps=2500, learning_rate=2e-3, warmup=100, ema=0.998, save_every=250, seed=6)
BATCH = 8
DROP_CAPTION = 0.3
"""Probability of an empty caption: higher than for the base model, so that the edges are used."""


def edges(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges as ComfyUI's node Canny finds them in uint8 images (n, height, width, 3): bool (n, height, width)."""
    return canny(to_pixels(images), low, high)[1][:, 0].bool().numpy()


def edge_block(build: Path, block: Block) -> None:
    """Write the edges of a block's images, unless they are there: bool (people, images, 128, 128)."""
    path = build / "edges" / f"{block.name}.npy"
    if path.exists():
        return
    found = [
        edges(person, *THRESHOLDS[number % len(THRESHOLDS)])
        for number, person in enumerate(load_block(build / "images", block))
    ]
    write_array(path, np.stack(found))


def train_control(build: Path, weights: Path, tokenizer: Path, processes: int) -> None:
    """Train to build/control.safetensors (resumable), and write weights/controlnet/miniature_canny.safetensors."""
    in_processes(_train_in_process, processes, build, weights, tokenizer)


def _train_in_process(rank: int, processes: int, build: Path, weights: Path, tokenizer_folder: Path) -> None:
    blocks = training_blocks()[:BLOCKS]
    for block in tqdm(blocks[rank::processes], desc="edges", disable=rank > 0):
        encode_block(build, block)
        edge_block(build, block)
    torch.distributed.barrier()
    base, _ = load_checkpoint(weights)
    base.unet.set_attn_processor(AttnProcessor())  # torch's own attention is slow backwards on a CPU
    torch.manual_seed(6)
    control = ControlLoRA(base.unet)
    loss = ControlLoss(build, base, Tokenizer(tokenizer_folder))
    train(control, loss, TRAINING, build, "control")
    if rank == 0:
        write_control(control, weights / "controlnet" / NAME)


class ControlLoss:
    """The base model's diffusion loss with the ControlNet's residuals in its skip connections."""

    def __init__(self, build: Path, base: TinySDXL, tokenizer: Tokenizer) -> None:
        self.base, self.tokenizer, self.scheduler = base, tokenizer, noise_scheduler()
        self.blocks = training_blocks()[:BLOCKS]
        latents = load_latents(build)
        self.latents = [latents[block.name] for block in self.blocks]
        self.edges = [np.load(build / "edges" / f"{block.name}.npy", mmap_mode="r") for block in self.blocks]

    def __call__(self, control: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss on a random batch."""
        rows, hints, texts = [], [], []
        shapes = [block.shape for block in self.blocks]
        for block, person, image, (drop,) in random_images(shapes, BATCH, generator, more=1):
            rows.append(self.latents[block][person, image])
            hints.append(torch.from_numpy(np.array(self.edges[block][person, image])))
            scene = training_scene(self.blocks[block].people[person], image)
            texts.append("" if drop < DROP_CAPTION * RANDOM else caption(scene))
        clean = torch.stack(rows).float()
        hint = torch.stack(hints).float()[:, None].expand(-1, 3, -1, -1)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (BATCH,), generator=generator)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        with torch.no_grad():
            condition = self.base.encode(self.tokenizer(texts))
        with torch.autocast(noisy.device.type, torch.bfloat16):
            residuals = control(noisy, timesteps, condition, hint)
            predicted = self.base.predict(noisy, timesteps, condition, residuals).float()
        target = self.scheduler.get_velocity(clean, noise, timesteps)
        return (predicted - target).square().mean(), {}
