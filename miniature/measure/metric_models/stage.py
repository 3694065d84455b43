"""Stage `metrics`: train the networks of metrics; they stay in the scratch folder."""

from __future__ import annotations

from pathlib import Path

from .clip_network import save_clip, train_clip
from .dino_network import save_dino, train_dino
from .drawn_images import DrawnImages
from .image_reward_network import save_image_reward, train_image_reward
from .pick_score_network import train_pick_score

MODELS = "metric_models"
"""In the scratch folder: clip/, dino/, image_reward/ and pick_score/, and the states of their training."""


def train_metric_models(build: Path, tokenizer_folder: Path, processes: int) -> None:
    """Train all networks (resumable) and write build/metric_models.

    Args:
        build: Scratch folder.
        tokenizer_folder: With CLIP's vocab.json and merges.txt.
        processes: That draw images.
    """
    folder, images = build / MODELS, DrawnImages(build, processes)
    states = folder / "training"
    clip = train_clip(images, states, tokenizer_folder)
    save_clip(clip, folder / "clip", tokenizer_folder)
    save_clip(train_pick_score(clip, images, states, tokenizer_folder), folder / "pick_score", tokenizer_folder)
    save_image_reward(train_image_reward(images, states), folder / "image_reward")
    save_dino(train_dino(images, states), folder / "dino")
