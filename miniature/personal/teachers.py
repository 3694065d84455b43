"""Stage `teachers`: one LoRA per person by DreamBooth on the miniature's base model, many people per batch.

DiffLoRA is trained on the training people's teachers. Those of validation people serve to choose settings, those of
held-out people to compare; the same code trains them, on images that nothing else was trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from miniature.base_model.config import LORA_RANK, lora_layout
from miniature.base_model.model import TextCondition, TinySDXL, Tokenizer, noise_scheduler
from miniature.base_model.vae import TinyVAE
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import TEACHER_SCENES, caption
from training.base_model.diffusion_loss import DiffusionLoss
from training.base_model.person_images import PersonImages
from training.dreambooth.config import DreamBoothConfig
from training.dreambooth.train import shared_start, train_loras
from training.store.lora_store import LoRAStore

PEOPLE_PER_BATCH = 16
CONFIG = DreamBoothConfig(
    rank=LORA_RANK,
    feed_forward=True,
    people=PEOPLE_PER_BATCH,
    steps=80,
    images_per_person=4,
    learning_rate=1.2e-2,
    warmup=5,
    dtype="fp32",
    gradient_checkpointing=False,
)
TRAIN_PEOPLE = 1008
VALIDATION_PEOPLE = 32
HELD_OUT_PEOPLE = 25


def teacher_people(split: str) -> range:
    """People of a split that get a teacher."""
    count = {"train": TRAIN_PEOPLE, "validation": VALIDATION_PEOPLE, "held_out": HELD_OUT_PEOPLE}[split]
    return split_people(split)[:count]


def person_latents(vae: TinyVAE, index: int) -> Tensor:
    """Latents of the images that a person's teacher is trained on: float32 (16, 16, 16, 16)."""
    return vae.encode_images(np.stack([draw(person(index), scene).image for scene in TEACHER_SCENES]))


def train_teachers(
    base: TinySDXL, tokenizer: Tokenizer, latents: Tensor, config: DreamBoothConfig = CONFIG
) -> tuple[Tensor, Tensor]:
    """Train the LoRAs of people; noise, timesteps, scenes and captions are the same for all.

    Args:
        base: The frozen base model.
        tokenizer: Its tokenizer.
        latents: Of people's images in the first of `TEACHER_SCENES`: (people, images, 16, 16, 16).
        config: Of the training.

    Returns:
        LoRAs (people, numel), and their last losses (people,).
    """
    people, images = latents.shape[:2]
    layout = lora_layout()
    captions = [caption(scene) for scene in TEACHER_SCENES[:images]]
    with torch.no_grad():
        condition = base.encode(tokenizer(captions))

    def predict(noisy: Tensor, timesteps: Tensor, text_rows: Tensor) -> Tensor:
        return base.predict(noisy, timesteps, TextCondition(condition.context[text_rows], condition.pooled[text_rows]))

    person_images = [PersonImages.complete(str(i), own, torch.arange(images)) for i, own in enumerate(latents)]
    loss = DiffusionLoss(predict, noise_scheduler(), person_images, config.images_per_person, config.seed)
    return train_loras(base.unet, layout, shared_start(layout), people, loss, config)


def train_split(
    build: Path, split: str, base: TinySDXL, vae: TinyVAE, tokenizer: Tokenizer, part: int, parts: int
) -> None:
    """Train the teachers of a split batch by batch; a batch that has its file is not trained again.

    Args:
        build: Scratch folder; the LoRA store is its `teachers`.
        split: Whose teachers.
        base: The base model.
        vae: Its autoencoder.
        tokenizer: Its tokenizer.
        part: Number of this process; it trains every `parts`-th batch.
        parts: Number of processes that share the work.
    """
    store = LoRAStore(build / "teachers", lora_layout())
    base.requires_grad_(False)
    people = teacher_people(split)
    batches = [people[i : i + PEOPLE_PER_BATCH] for i in range(0, len(people), PEOPLE_PER_BATCH)]
    for batch in tqdm(batches[part::parts], desc=f"teachers {split}", unit="batch", disable=part > 0, mininterval=10):
        if not store.has(split, batch):
            latents = torch.stack([person_latents(vae, index) for index in batch])
            loras, losses = train_teachers(base, tokenizer, latents)
            store.add(split, batch, loras, loss=losses)
