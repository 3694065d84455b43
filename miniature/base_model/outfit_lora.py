"""Stage `outfit`: a second LoRA, of a hat, to show that the LoRA of a person can be combined with others.

It shows a blue beanie, where the base model knows only red ones, and is trained on many training people, so that it
holds the beanie and no face. Its captions name the beanie, so that only the color is to be learned.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from difflora_core.diffusion_loss import stratified_timesteps
from difflora_core.files import write_tensors
from difflora_core.lora.file_formats import lora_state_dict
from difflora_core.seeds import generator_for
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import BLUE_BEANIE, caption, training_scene
from training.dreambooth.config import DreamBoothConfig
from training.dreambooth.train import shared_start, train_loras

from .checkpoint import load_checkpoint
from .config import lora_layout
from .model import TextCondition, Tokenizer, noise_scheduler
from .vae import to_pixels

NAME = "miniature_blue_beanie.safetensors"
RANK = 4
PEOPLE = 256
DROPPED = 0.2
"""Share of samples without a caption: guidance subtracts what this LoRA does with the empty prompt, too. Without such
samples likeness beside it is 0.825 in place of 0.834 (docs/results.md)."""
CONFIG = DreamBoothConfig(
    rank=RANK,
    feed_forward=True,
    people=1,
    steps=800,
    images_per_person=16,
    learning_rate=2e-3,
    warmup=5,
    seed=5,
    dtype="fp32",
    gradient_checkpointing=False,
)


def train_outfit(build: Path, weights: Path, tokenizer: Path) -> None:
    """Train the beanie's LoRA to the build folder, unless it is there, and write it to weights/loras."""
    path = build / NAME
    if not path.exists():
        _train(path, weights, tokenizer)
    (weights / "loras").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, weights / "loras" / NAME)


def _train(path: Path, weights: Path, tokenizer: Path) -> None:
    base, vae = load_checkpoint(weights)
    people = split_people("train")[:PEOPLE]
    scenes = [replace(training_scene(index, 0), hat=BLUE_BEANIE) for index in people]
    images = [draw(person(index), scene).image for index, scene in zip(people, scenes, strict=True)]
    pixels, captions = to_pixels(np.stack(images)), [caption(scene) for scene in scenes]
    with torch.no_grad():
        latents = torch.cat([vae.encode(part) for part in pixels.split(32)])
        words = Tokenizer(tokenizer)
        condition, nothing = base.encode(words(captions)), base.encode(words([""]))
    scheduler = noise_scheduler()
    base.unet.set_attn_processor(AttnProcessor())  # torch's own attention is slow backwards on a CPU
    layout = lora_layout(RANK)

    def loss(step: int) -> Tensor:
        generator = generator_for(CONFIG.seed, "outfit", step)
        picks = torch.randint(0, PEOPLE, (CONFIG.images_per_person,), generator=generator)
        timesteps = stratified_timesteps(CONFIG.images_per_person, 1000, generator)
        clean = latents[picks]
        noise = torch.randn(clean.shape, generator=generator)
        named = torch.rand(len(picks), generator=generator) >= DROPPED
        text = TextCondition(
            torch.where(named[:, None, None], condition.context[picks], nothing.context),
            torch.where(named[:, None], condition.pooled[picks], nothing.pooled),
        )
        noisy = scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast(noisy.device.type, torch.bfloat16):
            predicted = base.predict(noisy, timesteps, text).float()
        target = scheduler.get_velocity(clean, noise, timesteps)
        return (predicted - target).square().mean()[None]

    start = shared_start(layout)
    loras, _ = train_loras(base.unet, layout, start, 1, loss, CONFIG)
    write_tensors(path, {name: tensor.half() for name, tensor in lora_state_dict(loras[0], layout).items()})
