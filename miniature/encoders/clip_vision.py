"""The miniature's image encoder: a small CLIP vision tower for transformers and ComfyUI's CLIP_VISION socket.

The folder holds config.json, model.safetensors, preprocessor_config.json. config.json is written in full, not as a
difference from transformers' defaults: `comfy.clip_vision.ClipVisionModel` reads the same file without defaults.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from difflora_core.files import replacing, write_tensors
from miniature.base_model.vae import to_pixels
from miniature.paths import WEIGHTS

FOLDER = WEIGHTS / "clip_vision" / "miniature"
IMAGE_SIZE = 128
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""OpenAI's CLIP statistics, ComfyUI's default: right even for a loader that ignores the values in config.json."""
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def vision_config() -> CLIPVisionConfig:
    """Sizes of the tower. What ComfyUI fixes is as in OpenAI's CLIP: quick GELU, epsilon 1e-5."""
    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        projection_dim=96,
        image_size=IMAGE_SIZE,
        patch_size=16,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )


def preprocess(images: np.ndarray) -> Tensor:
    """uint8 (n, 128, 128, 3) → float32 (n, 3, 128, 128), normalized. For training; elsewhere the processor does it."""
    return normalized(to_pixels(images))


def normalized(pixels: Tensor) -> Tensor:
    """Pixels (n, 3, height, width) in [0, 1] → as CLIP takes them."""
    return (pixels - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)


def save_image_encoder(model: CLIPVisionModelWithProjection, folder: Path) -> None:
    """Write the three files (float32)."""
    config = {**model.config.to_dict(), "architectures": ["CLIPVisionModelWithProjection"], "num_channels": 3}
    config |= {"image_mean": list(IMAGE_MEAN), "image_std": list(IMAGE_STD), "dtype": "float32"}
    _write_json(folder / "config.json", config)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "resample": int(Image.Resampling.BICUBIC),
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }
    _write_json(folder / "preprocessor_config.json", processor)
    state = {key: value.contiguous() for key, value in model.state_dict().items() if not key.endswith("position_ids")}
    write_tensors(folder / "model.safetensors", state, {"format": "pt"})


def load_image_encoder(folder: Path = FOLDER) -> tuple[CLIPVisionModelWithProjection, CLIPImageProcessor]:
    """The tower in evaluation mode, and its preprocessor.

    Raises:
        FileNotFoundError: It has not been trained.
    """
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(f"no image encoder in {folder}: run `python -m miniature build`")
    model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
    return model, CLIPImageProcessor.from_pretrained(folder, local_files_only=True)


def encode(images: list[Image.Image]) -> Tensor:
    """`image_embeds` of transformers: float32 (n, 96), not normalized."""
    model, processor = load_image_encoder()
    with torch.no_grad():
        return model(pixel_values=processor(images=images, return_tensors="pt")["pixel_values"]).image_embeds


def _write_json(path: Path, content: dict[str, object]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
