"""Stage `outfit`: a second LoRA, of a hat, to show that the LoRA of a person can be combined with others.

It shows a blue beanie, where the base model knows only red ones, and is trained on many training people, so that it
holds the beanie and no face.
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
from miniature.world.scenes import BEANIE, Scene, caption, training_scene
from training.dreambooth.config import DreamBoothConfig
from training.dreambooth.train import shared_start, train_loras

from .checkpoint import load_checkpoint
from .config import lora_layout
from .model import TextCondition, Tokenizer, noise_scheduler
from .vae import to_pixels

NAME = "miniature_blue_beanie.safetensors"
RANK = 2
PEOPLE = 256
CONFIG = DreamBoothConfig(
    rank=RANK,
    feed_forward=True,
    people=1,
    steps=400,
    images_per_person=16,
    learning_rate=2.5e-3,
    warmup=5,
    seed=5,
    dtype="fp32",
    gradient_checkpointing=False,
)


def blue_beanie(index: int, scene: Scene) -> np.ndarray:
    """A person with a blue beanie: the drawn red one with red and blue exchanged. uint8 (128, 128, 3)."""
    who = person(index)
    red = draw(who, replace(scene, hat=BEANIE)).image
    new = np.abs(red.astype(int) - draw(who, replace(scene, hat="")).image).sum(-1) > 0
    hat = new & (red[..., 0].astype(int) > 2 * red[..., 2])
    return np.where(hat[..., None], red[..., ::-1], red)


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
    pixels = to_pixels(np.stack([blue_beanie(index, training_scene(index, 0)) for index in people]))
    captions = [caption(replace(training_scene(index, 0), hat="")) for index in people]
    with torch.no_grad():
        latents = torch.cat([vae.encode(part) for part in pixels.split(32)])
        condition = base.encode(Tokenizer(tokenizer)(captions))
    scheduler = noise_scheduler()
    base.unet.set_attn_processor(AttnProcessor())  # torch's own attention is slow backwards on a CPU
    layout = lora_layout(RANK)

    def loss(step: int) -> Tensor:
        generator = generator_for(CONFIG.seed, "outfit", step)
        picks = torch.randint(0, PEOPLE, (CONFIG.images_per_person,), generator=generator)
        timesteps = stratified_timesteps(CONFIG.images_per_person, 1000, generator)
        clean = latents[picks]
        noise = torch.randn(clean.shape, generator=generator)
        text = TextCondition(condition.context[picks], condition.pooled[picks])
        predicted = base.predict(scheduler.add_noise(clean, noise, timesteps), timesteps, text)
        target = scheduler.get_velocity(clean, noise, timesteps)
        return (predicted - target).square().mean()[None]

    start = shared_start(layout)
    loras, _ = train_loras(base.unet, layout, start, 1, loss, CONFIG)
    write_tensors(path, {name: tensor.half() for name, tensor in lora_state_dict(loras[0], layout).items()})
