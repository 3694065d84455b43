"""Stage `teachers`: one LoRA per person by DreamBooth on the miniature's base model, many people per batch.

Training people's teachers are what DiffLoRA learns from. Validation people's choose settings, held-out people's are
only ever compared with; both are made by the same code from pictures that nothing else has seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.base_model.model import BaseModel, Condition, Tokenizer, noise_scheduler
from miniature.base_model.vae import TinyVAE
from miniature.world.drawing import draw
from miniature.world.image_blocks import TEACHER_PICTURES
from miniature.world.people import Scene, caption, person, random_scene, split_people
from training.base_model.diffusion_loss import DenoisingLoss, PersonImages
from training.dreambooth.train import DreamBoothConfig, shared_start, train_loras
from training.store.lora_store import LoRAStore

RANK = 4
CONFIG = DreamBoothConfig(steps=80, rows=4, learning_rate=1.2e-2)
PEOPLE_PER_BATCH = 16
TRAIN_PEOPLE = 1008
VALIDATION_PEOPLE = 32
HELD_OUT_PEOPLE = 25


def layout() -> LoRALayout:
    """The miniature's LoRA layout: attention and feed-forward layers, rank 4."""
    return LoRALayout.from_unet_config(base_config.UNET, RANK, feed_forward=True)


def teacher_people(split: str) -> range:
    """Who gets a teacher, by split."""
    count = {"train": TRAIN_PEOPLE, "validation": VALIDATION_PEOPLE, "held_out": HELD_OUT_PEOPLE}[split]
    return split_people(split)[:count]


def teacher_scene(picture: int) -> Scene:
    """The scene of every person's n-th teacher picture.

    All people are drawn in the same scenes: with scenes of their own, two people's LoRAs differed more by scene than by
    person (PCA of 288 numbers explained 12 % of the variance between validation people's LoRAs).
    """
    return random_scene(np.random.default_rng([78, picture]))


def person_latents(vae: TinyVAE, index: int) -> Tensor:
    """Latents of a person's training pictures: float32 (16, 4, 16, 16)."""
    pixels = np.stack([draw(person(index), teacher_scene(k)).image for k in range(TEACHER_PICTURES)])
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
    with torch.no_grad():
        return vae.encode(pictures.contiguous(memory_format=torch.channels_last)).contiguous()


def train_teachers(
    base: BaseModel, tokenizer: Tokenizer, latents: Tensor, config: DreamBoothConfig = CONFIG
) -> tuple[Tensor, Tensor]:
    """LoRAs (people, numel) of people from latents (people, pictures, 4, 16, 16), and their last losses (people,).

    Noise, timesteps, scenes and captions are the same for all people.
    """
    people, pictures = latents.shape[:2]
    shape = layout()
    start = shared_start(shape)
    captions = [caption(teacher_scene(k)) for k in range(pictures)]
    with torch.no_grad():
        condition = base.encode(tokenizer(captions))

    def predict(noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        return base.predict(noisy, timesteps, Condition(condition.context[texts], condition.pooled[texts]))

    albums = [PersonImages.whole(str(i), own, torch.arange(pictures)) for i, own in enumerate(latents)]
    loss = DenoisingLoss(predict, noise_scheduler(), albums, config.rows, config.seed)
    return train_loras(base.unet, shape, start, people, loss, config), loss.history[-1]


def make_split(
    build: Path, split: str, base: BaseModel, vae: TinyVAE, tokenizer: Tokenizer, part: int = 0, parts: int = 1
) -> None:
    """Train the teachers of a split batch by batch; a batch that has its file is not trained again.

    part, parts: this process does every `parts`-th batch, so that several processes share the work without talking.
    """
    store = LoRAStore(build / "teachers", layout())
    base.requires_grad_(False)
    everyone = teacher_people(split)
    batches = [everyone[i : i + PEOPLE_PER_BATCH] for i in range(0, len(everyone), PEOPLE_PER_BATCH)]
    for batch in tqdm(batches[part::parts], desc=f"teachers {split}", unit="batch", disable=part > 0, mininterval=10):
        if not store.has(split, batch):
            latents = torch.stack([person_latents(vae, index) for index in batch])
            loras, losses = train_teachers(base, tokenizer, latents)
            store.add(split, batch, loras, loss=losses)
