"""A small PickScore (Kirstain et al., arXiv 2305.01569): this package's CLIP, trained further on preference pairs."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from miniature.encoders.clip_vision import normalized
from training.engine.batches_ahead import Metrics
from training.engine.config import TrainConfig
from training.engine.loop import train

from .clip_network import tokenized
from .drawn_images import DrawnImages
from .preference_pairs import draw_pairs

NAME = "pick_score"
BATCH = 48
TRAINING = TrainConfig(steps=500, learning_rate=3e-4, warmup=50, weight_decay=0.02, ema=0.99, save_every=100, seed=44)


def train_pick_score(
    clip: CLIPModel, images: DrawnImages, folder: Path, tokenizer_folder: Path, config: TrainConfig = TRAINING
) -> CLIPModel:
    """Train a CLIP model further (resumable, state in `folder`) and return it: which image fits the prompt better?

    Args:
        clip: Where it starts; it is changed.
        images: To train on.
        folder: Of the training's state.
        tokenizer_folder: With CLIP's vocab.json and merges.txt.
        config: Of the training.
    """
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)

    def loss(module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        pairs = draw_pairs(images, BATCH, generator)
        found = module(pixel_values=normalized(pairs.pixels), **tokenized(tokenizer, pairs.prompts))
        prompts = F.normalize(found.text_embeds, dim=-1).repeat(2, 1)
        scores = clip.logit_scale.exp() * (F.normalize(found.image_embeds, dim=-1) * prompts).sum(1)
        logits = torch.stack(scores.chunk(2), 1)  # (pairs, 2), the preferred ones first
        right = (logits[:, 0] > logits[:, 1]).float().mean()
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)), {"right": right}

    train(clip, loss, config, folder, NAME)
    return clip.eval()
