"""A pilot on the base model of two layers of `tiny_world`: people are colors, and a face's embedding is its color."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout
from tests.training.tiny_world import LAYOUT, base_model
from training.dreambooth.config import DreamBoothConfig
from training.lora_dataset.config import DatasetConfig, PreprocessConfig, VerifyConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.preprocess import prepared_path, text_path

CPU = torch.device("cpu")
SIZE, IMAGES, CAPTIONS = 64, 4, ("one", "two", "three", "four")
COLORS = {"anna": (0.9, 0.2, 0.1), "bert": (0.1, 0.3, 0.9)}
DREAMBOOTH = DreamBoothConfig(
    rank=2,
    people=1,
    steps=12,
    images_per_person=2,
    learning_rate=1e-2,
    warmup=1,
    dtype="fp32",
    gradient_checkpointing=False,
)


@dataclass
class TinyBase:
    """Stands for `SDXLBase`."""

    unet: Any = field(default_factory=base_model)
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    def scheduler(self) -> DDPMScheduler:
        return DDPMScheduler(prediction_type="sample")

    def layout(self, rank: int, feed_forward: bool) -> LoRALayout:
        return LoRALayout(LAYOUT.modules if feed_forward else LAYOUT.modules[1:], rank)

    def predict(self, noisy: Tensor, timesteps: Tensor, texts: Any, size: int) -> Tensor:
        return self.unet(noisy.flatten(2).mT).mT.reshape(noisy.shape)

    @torch.no_grad()
    def generate(self, captions, size: int, steps: int, guidance: float, seed: int, batch: int = 4) -> Tensor:
        noise = torch.randn(len(captions), 4, 2, 2, generator=torch.Generator().manual_seed(seed))
        color = self.predict(noise, torch.zeros(1), {}, size)[:, :3].mean((2, 3), keepdim=True)
        return color.clamp(0, 1).expand(-1, -1, size, size)


class ColorFaces:
    """Stands for `FaceEncoder`."""

    def find(self, image: np.ndarray, name: str = "") -> Any:
        class Face:
            embedding = torch.from_numpy(image.astype(np.float32).mean((0, 1)) - 100.0)

        return Face()


def prepared_dataset(folder: Path, colors: Mapping[str, tuple[float, ...]] = COLORS) -> DatasetConfig:
    """People as the stages up to preprocess leave them."""
    config = DatasetConfig(
        folder / "work",
        folder / "base",
        preprocess=PreprocessConfig(size=SIZE, held_out=1),
        dreambooth=DREAMBOOTH,
        verify=VerifyConfig(images=2, steps=1),
    )
    for caption in CAPTIONS:
        write_tensors(text_path(config, caption), {"context": torch.zeros(1)})
    for name, color in colors.items():
        images = []
        for number, caption in enumerate(CAPTIONS):
            file = f"generate/{name}/{number}.png"
            path = config.workspace / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.broadcast_to(np.uint8(np.array(color) * 255), (SIZE, SIZE, 3))
            Image.fromarray(np.ascontiguousarray(pixels)).save(path)
            images.append({"file": file, "caption": caption})
        Manifest(config.stage("generate")).write(Record(name, facts={"images": images}))
        Manifest(config.stage("filter")).write(Record(name, facts={"kept": images}))
        latents = torch.tensor([*color, 0.0]).half()[None, :, None, None].expand(IMAGES, 4, 2, 2)
        metadata = {
            "captions": json.dumps(CAPTIONS),
            "positions": json.dumps(list(range(IMAGES))),
            "prompt_count": str(IMAGES),
            "size": str(SIZE),
        }
        write_tensors(prepared_path(config, name), {"latents": latents.contiguous()}, metadata)
        Manifest(config.stage("preprocess")).write(Record(name))
    return config
