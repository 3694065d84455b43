"""Stage `outfit`: a second LoRA, for a thing instead of a person, to show that personal LoRAs compose with others.

A blue beanie, where the base model knows only red ones, learned from many training people, so that it holds the beanie
and nobody's face.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difflora_core.files import write_tensors
from difflora_core.lora.file_formats import lora_state_dict
from difflora_core.lora.layout import LoRALayout
from miniature.world.drawing import draw
from miniature.world.image_blocks import scene_of
from miniature.world.people import Scene, caption, person, split_people
from training.dreambooth.train import DreamBoothConfig, shared_start, train_loras

from . import config as base_config
from .checkpoint import load_checkpoint
from .model import Condition, Tokenizer, noise_scheduler

NAME = "miniature_blue_beanie.safetensors"
RANK = 2
PEOPLE = 256
CONFIG = DreamBoothConfig(steps=400, rows=16, learning_rate=2.5e-3, seed=5)
BEANIE = "wearing a red beanie"


def blue_beanie(index: int, scene: Scene) -> np.ndarray:
    """A person with a blue beanie: the drawn red one with red and blue exchanged. uint8 (128, 128, 3)."""
    who = person(index)
    red = draw(who, replace(scene, hat=BEANIE)).image
    new = np.abs(red.astype(int) - draw(who, replace(scene, hat="")).image).sum(-1) > 0
    hat = new & (red[..., 0].astype(int) > 2 * red[..., 2])
    return np.where(hat[..., None], red[..., ::-1], red)


def train_outfit(weights: Path, tokenizer: Path) -> None:
    """Train the beanie's LoRA and write weights/loras/miniature_blue_beanie.safetensors, unless it is there."""
    path = weights / "loras" / NAME
    if path.exists():
        return
    base, vae = load_checkpoint(weights)
    everyone = split_people("train")[:PEOPLE]
    pictures = np.stack([blue_beanie(index, scene_of(index, 0)) for index in everyone])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255.0
    captions = [caption(replace(scene_of(index, 0), hat="")) for index in everyone]
    with torch.no_grad():
        latents = torch.cat([vae.encode(part) for part in pixels.split(32)])
        condition = base.encode(Tokenizer(tokenizer)(captions))
    scheduler = noise_scheduler()
    layout = LoRALayout.from_unet_config(base_config.UNET, RANK, feed_forward=True)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        picks = torch.randint(0, PEOPLE, (CONFIG.rows,), generator=generator)
        timesteps = (
            (torch.arange(CONFIG.rows) + torch.rand(CONFIG.rows, generator=generator)) / CONFIG.rows * 1000
        ).long()
        clean = latents[picks]
        noise = torch.randn(clean.shape, generator=generator)
        text = Condition(condition.context[picks], condition.pooled[picks])
        predicted = base.predict(scheduler.add_noise(clean, noise, timesteps), timesteps, text)
        target = scheduler.get_velocity(clean, noise, timesteps)
        return (predicted - target).square().mean()[None]

    start = shared_start(layout)
    lora = train_loras(base.unet, layout, start, 1, loss, CONFIG)[0]
    write_tensors(path, {name: tensor.half() for name, tensor in lora_state_dict(lora, layout).items()})
