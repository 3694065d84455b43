"""Models of metrics with random weights, and the miniature's face pack for measuring."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS
from training.evaluation.settings import MetricSettings

PACKS = WEIGHTS / "insightface" / "models"


def make_measuring_models(metrics: MetricSettings, clip: Mapping[str, Any], dino: Mapping[str, Any]) -> None:
    """Write what the settings name: the pack of Face Sim, folders of CLIP and DINO.

    Args:
        metrics: With folders for CLIP and DINO.
        clip: Of a `CLIPConfig`.
        dino: Of a `ViTConfig`.
    """
    if metrics.faces is not None:
        shutil.copytree(PACKS / "measuring", metrics.faces.root / "models" / metrics.faces.pack)
    torch.manual_seed(0)
    for folder in map(Path, metrics.clip):
        CLIPModel(CLIPConfig(**clip)).save_pretrained(folder)
        CLIPTokenizer.from_pretrained(find_tokenizer(), local_files_only=True).save_pretrained(folder)
        side = clip["vision_config"].get("image_size", 224)
        square = {"height": side, "width": side}
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square).save_pretrained(folder)
    if metrics.dino is not None:
        ViTModel(ViTConfig(**dino), add_pooling_layer=False).save_pretrained(metrics.dino)
