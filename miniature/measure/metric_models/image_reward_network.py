"""A small ImageReward (Xu et al., arXiv 2304.05977), trained on preference pairs and written as the official files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difflora_core.files import write_tensors
from miniature.encoders.clip_vision import IMAGE_SIZE, normalized
from miniature.measure.judge import ATTRIBUTES
from miniature.world.scenes import Scene
from training.engine.batches_ahead import Metrics
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.evaluation.metrics.image_reward import TOKENS, bert_tokenizer
from training.evaluation.metrics.image_reward_network import ImageRewardNetwork
from training.lora_dataset.images.folder_writing import replacing_folder

from .clip_network import SUBJECT
from .drawn_images import DrawnImages
from .preference_pairs import draw_pairs
from .vision_start import AttributeHeads, sample_pixels, start_vision

NAME = "image_reward"
BATCH = 48
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VISION = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "image_size": IMAGE_SIZE,
    "patch_size": 16,
}
TRAINING = TrainConfig(
    steps=4800, learning_rate=7e-4, warmup=100, weight_decay=0.02, ema=0.995, save_every=100, seed=43
)
OFFICIAL = (
    (r"^head\.", "mlp.layers."),
    (r"^text\.", "blip.text_encoder."),
    (r"^vision\.embeddings\.class_embedding$", "vision.cls_token"),
    (r"^vision\.embeddings\.position_embedding$", "vision.pos_embed"),
    (r"^vision\.embeddings\.patch_embedding\.", "vision.patch_embed.proj."),
    (r"^vision\.post_layernorm\.", "vision.norm."),
    (r"^vision\.encoder\.layers\.(\d+)\.layer_norm", r"vision.blocks.\1.norm"),
    (r"^vision\.encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"vision.blocks.\1.attn.qkv."),
    (r"^vision\.encoder\.layers\.(\d+)\.self_attn\.projection\.", r"vision.blocks.\1.attn.proj."),
    (r"^vision\.encoder\.layers\.", "vision.blocks."),
    (r"^vision\.", "blip.visual_encoder."),
)
"""Our names, as regular expressions that are applied one after another, and the official file's."""


def vocabulary() -> list[str]:
    """All words of the drawn world's prompts, after the special tokens: a line each of BERT's vocab.txt."""
    texts = [SUBJECT, "background", *(word for words in ATTRIBUTES.values() for word in words)]
    return [*SPECIAL, ",", *sorted({word for text in texts for word in text.split()})]


def text_config() -> dict[str, int]:
    """Sizes of the network that reads prompts, as in med_config.json."""
    return {
        "vocab_size": len(vocabulary()),
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": TOKENS,
    }


class RewardedImages(nn.Module):
    """ImageReward and its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ImageRewardNetwork(VISION, text_config())
        self.attributes = AttributeHeads(VISION["hidden_size"])

    def forward(
        self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, scenes: Sequence[Scene]
    ) -> tuple[Tensor, Metrics]:
        """Compute the loss of pairs: the preferred images, then the others; see `ImageRewardNetwork.forward`."""
        seen = self.network.vision(pixel_values=pixels).last_hidden_state
        preferred, other = self.network.reward(seen, input_ids, attention_mask).chunk(2)
        attribute_loss, attributes = self.attributes(seen[:, 0], scenes)
        loss = attribute_loss - F.logsigmoid(preferred - other).mean()
        return loss, {"right": (preferred > other).float().mean(), "attributes": attributes}


def train_image_reward(images: DrawnImages, folder: Path, config: TrainConfig = TRAINING) -> ImageRewardNetwork:
    """Train ImageReward (resumable, state in `folder`) and return it.

    Args:
        images: To train on.
        folder: Of the training's state.
        config: Of the training.
    """
    tokenizer = bert_tokenizer(vocabulary())
    torch.manual_seed(config.seed)
    model = RewardedImages()
    first = model.network.vision.embeddings
    start_vision(first.patch_embedding, first.position_embedding[0, 1:], normalized(sample_pixels(images)))

    def loss(module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        pairs = draw_pairs(images, BATCH, generator)
        tokens = tokenizer(list(pairs.prompts) * 2, padding=True, return_tensors="pt")
        return module(normalized(pairs.pixels), tokens.input_ids, tokens.attention_mask, pairs.scenes)

    train(model, loss, config, folder, NAME)
    return model.network.eval()


def save_image_reward(network: ImageRewardNetwork, folder: Path) -> None:
    """Write the three files of the official layout."""
    state = {official_name(name): tensor.contiguous() for name, tensor in network.state_dict().items()}
    with replacing_folder(folder) as partial:
        write_tensors(partial / "ImageReward.safetensors", state)
        (partial / "med_config.json").write_text(json.dumps(text_config(), indent=1), encoding="utf-8")
        (partial / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")


def official_name(name: str) -> str:
    """Return how the official file calls a tensor of `ImageRewardNetwork`."""
    for pattern, replacement in OFFICIAL:
        name = re.sub(pattern, replacement, name)
    return name
