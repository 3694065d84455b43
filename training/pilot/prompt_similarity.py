"""CLIP-T: does an image show what its caption says? The cosine of CLIP's embeddings of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F


class PromptSimilarity:
    """A CLIP model with text and vision, in transformers' format."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        """Use transformers' CLIPModel, on its device, with its tokenizer and image processor."""
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor

    @classmethod
    def open(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Load a folder; nothing is downloaded and only safetensors is read.

        Raises:
            FileNotFoundError: There is no such model.
            ValueError: It can't be loaded, or is another kind of model.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"no CLIP model in {folder}: expected config.json, model.safetensors, the tokenizer's files and "
                "preprocessor_config.json, of text and vision"
            )
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

        try:
            model, report = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
            processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers, safetensors and json have their own kinds
            problem = " ".join(str(error).split())[:300]
            raise ValueError(f"the CLIP model in {folder} can't be loaded: {problem}") from error
        if report["missing_keys"]:  # transformers would draw them at random
            missing = min(report["missing_keys"])
            raise ValueError(f"{folder} is not a CLIP model of text and vision: it has no {missing}")
        return cls(model.to(device), tokenizer, processor)

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Return the cosine (n,) of each image (n, 3, h, w) in [0, 1] with its caption, of which 77 tokens count."""
        device = self.model.device
        pixels = self.processor(images=list(images), do_rescale=False, return_tensors="pt")["pixel_values"]
        tokens = self.tokenizer(list(captions), padding=True, truncation=True, max_length=77, return_tensors="pt")
        seen = self.model.get_image_features(pixel_values=pixels.to(device)).pooler_output
        said = self.model.get_text_features(**tokens.to(device)).pooler_output
        return F.cosine_similarity(seen.float(), said.float()).cpu()
