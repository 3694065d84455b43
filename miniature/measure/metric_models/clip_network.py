"""A small CLIP with text, for CLIP-T and CLIP-I (Radford et al., arXiv 2103.00020).

Beside CLIP's loss over captions it has SigLIP's over single clauses (Zhai et al., arXiv 2303.15343) and classifies
attributes, without which so small a model learns little of what makes up a small part of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from miniature.encoders.clip_vision import IMAGE_SIZE, normalized
from miniature.encoders.train_clip_vision import clauses_in, vocabulary
from miniature.world.scenes import CLASS_WORD, Scene, caption
from training.engine.batches_ahead import Metrics
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.lora_dataset.images.folder_writing import replacing_folder

from .drawn_images import DrawnImages, softened_pixels
from .vision_start import AttributeHeads, sample_pixels, start_vision

NAME = "clip"
BATCH = 64
SUBJECT = f"a portrait of a {CLASS_WORD}"
CLAUSE_WEIGHT = 0.2
"""Of the loss over clauses, which is a sum over about a hundred of them."""
TRAINING = TrainConfig(
    steps=3000, learning_rate=1e-3, warmup=100, weight_decay=0.05, ema=0.995, save_every=100, seed=41
)


def clip_config() -> CLIPConfig:
    """Sizes of the towers."""
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
    vision = tower | {"num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": 16}
    return CLIPConfig(text_config=tower | {"num_hidden_layers": 3}, vision_config=vision, projection_dim=128)


def random_caption(who: int, scene: Scene, generator: torch.Generator) -> str:
    """Write the caption of a scene, or in every second one some clauses, looks among them, in any order."""
    clauses = clauses_in(who, scene)
    chance, share = torch.rand(2, generator=generator).tolist()
    if chance < 0.5:
        return caption(scene)
    order = torch.randperm(len(clauses), generator=generator).tolist()
    return ", ".join([SUBJECT, *(clauses[at] for at in order[: 1 + int(share * len(clauses))])])


class CaptionedImages(nn.Module):
    """CLIP and its losses."""

    def __init__(self, clauses: int) -> None:
        super().__init__()
        self.clip = CLIPModel(clip_config())
        self.attributes = AttributeHeads(self.clip.config.projection_dim)
        self.clause_scale = nn.Parameter(torch.tensor(2.3))  # a logarithm, as CLIP's own
        self.clause_bias = nn.Parameter(torch.full((clauses,), -3.0))

    def forward(
        self,
        pixels: Tensor,
        captions: Mapping[str, Tensor],
        clauses: Mapping[str, Tensor],
        named: Tensor,
        scenes: Sequence[Scene],
    ) -> tuple[Tensor, Metrics]:
        """Compute the loss.

        Args:
            pixels: Normalized images (n, 3, 128, 128).
            captions: Tokens of n captions.
            clauses: Tokens of all clauses.
            named: (n, clauses), 1 for what an image shows.
            scenes: What the images show.
        """
        found = self.clip(pixel_values=pixels, **captions)
        images, captions_found = F.normalize(found.image_embeds, dim=-1), F.normalize(found.text_embeds, dim=-1)
        pooled = self.clip.text_model(**clauses).pooler_output
        clauses_found = F.normalize(self.clip.text_projection(pooled), dim=-1)
        match = self.clip.logit_scale.exp() * images @ captions_found.T  # (n, n)
        own = torch.arange(len(images))
        caption_loss = (F.cross_entropy(match, own) + F.cross_entropy(match.T, own)) / 2
        logits = self.clause_scale.exp() * images @ clauses_found.T + self.clause_bias
        clause_loss = F.binary_cross_entropy_with_logits(logits, named, reduction="none").sum(1).mean()
        attribute_loss, right = self.attributes(found.image_embeds, scenes)
        loss = caption_loss + CLAUSE_WEIGHT * clause_loss + attribute_loss
        metrics = {"caption": caption_loss.detach(), "clause": clause_loss.detach(), "attributes": right}
        return loss, metrics | {"right": (match.argmax(1) == own).float().mean()}


def tokenized(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> dict[str, Tensor]:
    """Tokens and their mask, each (texts, longest)."""
    return dict(tokenizer(list(texts), padding=True, return_tensors="pt"))


def train_clip(images: DrawnImages, folder: Path, tokenizer_folder: Path, config: TrainConfig = TRAINING) -> CLIPModel:
    """Train CLIP (resumable, state in `folder`) and return it.

    Args:
        images: To train on.
        folder: Of the training's state.
        tokenizer_folder: With CLIP's vocab.json and merges.txt.
        config: Of the training.
    """
    tokenizer, clauses = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True), vocabulary()
    rows = {clause: row for row, clause in enumerate(clauses)}
    alone = tokenized(tokenizer, [f"{SUBJECT}, {clause}" for clause in clauses])
    torch.manual_seed(config.seed)
    model = CaptionedImages(len(clauses))
    first = model.clip.vision_model.embeddings
    start_vision(first.patch_embedding, first.position_embedding.weight[1:], normalized(sample_pixels(images)))

    def loss(module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        batch = images.draw(BATCH, generator)
        shown = list(zip(batch.people, batch.scenes, strict=True))
        named = torch.zeros(len(shown), len(clauses))
        for row, (who, scene) in enumerate(shown):
            named[row, [rows[clause] for clause in clauses_in(who, scene)]] = 1.0
        captions = [random_caption(who, scene, generator) for who, scene in shown]
        pixels = normalized(softened_pixels(batch.images, generator))
        return module(pixels, tokenized(tokenizer, captions), alone, named, batch.scenes)

    train(model, loss, config, folder, NAME)
    return model.clip.eval()


def save_clip(model: CLIPModel, folder: Path, tokenizer_folder: Path) -> None:
    """Write a model in transformers' layout, with tokenizer and preprocessing."""
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    with replacing_folder(folder) as partial:
        model.save_pretrained(partial)
        CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True).save_pretrained(partial)
        CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=square).save_pretrained(partial)
