"""ImageReward: how much would people like an image for a prompt?

Xu et al., arXiv 2304.05977, with the official package's choices: prompt cut and padded to 35 tokens of
bert-base-uncased, image by CLIP's preprocessing at 224 pixels, reward standardized. About 0 on average, higher is
better.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .image_reward_network import ImageRewardNetwork
from .metric import Better, Description, PersonSample, Scores
from .model_files import model_folder, read_state_dict
from .pixels import CLIP_MEAN, CLIP_STD, Preprocessing, require_finite, rgb_images

COLUMN = "ImageReward"
WEIGHTS = ("ImageReward.safetensors", "ImageReward.pt")
NEEDED = (WEIGHTS, ("med_config.json",), ("vocab.txt",))
TOKENS = 35
"""Length of the prompts."""
BATCH = 16
"""Images that are measured at a time."""


class ImageReward:
    """ImageReward of each image with its prompt."""

    def __init__(self, network: ImageRewardNetwork, tokenizer: Any, origin: str) -> None:
        """Use a network.

        Args:
            network: The network, on its device.
            tokenizer: transformers' BertTokenizer.
            origin: Where it was read from, for the report.
        """
        self.network, self.tokenizer, self.origin = network, tokenizer, origin
        side = int(network.vision.config.image_size)
        self.preprocessing = Preprocessing(side, side, CLIP_MEAN, CLIP_STD)

    @classmethod
    def open(cls, name: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load ImageReward.pt (or .safetensors with the same names), med_config.json and BERT's vocab.txt of a folder.

        The first two are files of `zai-org/ImageReward` on the hub, the third of `google-bert/bert-base-uncased`.

        Raises:
            FileNotFoundError: One is not there.
            ValueError: One is damaged or another file; no code of a pickle is run.
        """
        what = "the ImageReward model"
        folder = model_folder(name, what, NEEDED)
        path = next(folder / file for file in WEIGHTS if (folder / file).is_file())
        state = read_state_dict(path, what, "put it there")
        try:
            config = json.loads((folder / "med_config.json").read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError(f"med_config.json holds a {type(config).__name__}, expected an object")
            network = ImageRewardNetwork.from_official(state, config)
            tokenizer = _read_tokenizer(folder / "vocab.txt", config["vocab_size"])
        except ValueError as error:  # also what json and decoding raise
            raise ValueError(f"{what} in {folder} can't be loaded: {error}") from error
        return cls(network.to(device), tokenizer, str(name))

    @property
    def columns(self) -> Mapping[str, Better]:
        """ImageReward."""
        return {COLUMN: "higher"}

    @property
    def description(self) -> Description:
        """Say what it is."""
        return Description(
            model=f"ImageReward v1.0 layout, {self.origin}",
            layer="reward of the text's first token after attention to the image, standardized as officially",
            preprocessing=f"{self.preprocessing}; prompt of {TOKENS} tokens",
            source="ImageReward (arXiv 2304.05977)",
        )

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images.

        Raises:
            ValueError: An image can't be used; it is named.
        """
        images, prompts = rgb_images(sample.images), list(sample.prompts)
        starts = range(0, len(images), BATCH)
        rewards = torch.cat([self._reward(images[at : at + BATCH], prompts[at : at + BATCH]) for at in starts])
        return {COLUMN: require_finite(rewards, COLUMN).double().numpy()}

    @torch.no_grad()
    def _reward(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> Tensor:
        device = next(self.network.parameters()).device
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(device)
        return self.network(self.preprocessing(images).to(device), tokens.input_ids, tokens.attention_mask).cpu()


def _read_tokenizer(path: Path, rows: int) -> Any:
    """Read BERT's vocabulary, a token a line; `rows` is the number of embeddings."""
    lines = path.read_text(encoding="utf-8").splitlines()
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token not in lines]
    if missing or len(lines) > rows:
        found = f"lacks {missing[0]}" if missing else f"has {len(lines)} tokens, the network {rows}"
        raise ValueError(f"vocab.txt {found}; expected bert-base-uncased's")
    return bert_tokenizer(lines)


def bert_tokenizer(vocabulary: Sequence[str]) -> Any:
    """Make transformers' BertTokenizer of tokens in the order of their numbers, special ones included; lowercase."""
    from transformers import BertTokenizer

    # A mapping, because the argument for a file was renamed, and unknown arguments are ignored without a word
    return BertTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}, do_lower_case=True)
