"""A toy store with an LAE, embeddings and settings, for the command `train-difflora`."""

import json
from pathlib import Path

import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.model import DiffLoRA
from training.denoiser.command import train_difflora
from training.denoiser.settings import DiffLoRASettings
from training.engine.settings import read_settings
from training.people.embeddings import ImageEmbeddings, write_embeddings
from training.store.lora_store import LoRAStore

ENCODERS = EncoderNames("faces", "images")
LAYOUT = LoRALayout(
    (
        LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),
        LoRAModule("mid_block.attentions.0.transformer_blocks.0.ff.net.2", 3, 5),
    ),
    rank=2,
)
PEOPLE = {"train": [f"ann{i}" for i in range(24)], "validation": [f"bob{i}" for i in range(6)]}


def write_lae(path: Path, loras: torch.Tensor, layout: LoRALayout = LAYOUT) -> None:
    """A fitted LAE inside a whole checkpoint."""
    lae = LAE(layout, LAEConfig(kind="linear", tokens=2, width=3))
    lae.fit(loras)
    dit = DiTConfig(tokens=2, latent_width=3, width=8, layers=1, heads=1, head_width=8, condition_width=8)
    model = DiffLoRA(layout, DiffLoRAConfig(lae.config, dit, MIFConfig(4, 3, 8), ENCODERS))
    model.lae.load_state_dict(lae.state_dict())
    model.save(path, torch.float32)


def write_world(folder: Path) -> Path:
    """A folder with a store, an LAE, embeddings that tell people apart, and config.yaml."""
    generator = torch.Generator().manual_seed(0)
    store = LoRAStore(folder / "store", LAYOUT)
    mixing = torch.randn(4, LAYOUT.numel, generator=generator)
    loras = {}
    for split, people in PEOPLE.items():
        faces = torch.randn(len(people), 4, generator=generator)
        loras[split] = faces @ mixing
        store.add(split, people, loras[split])
        for number, (name, face) in enumerate(zip(people, faces, strict=True)):
            images = face + 0.02 * torch.randn(1 + number % 3, 4, generator=generator)
            write_embeddings(
                folder / "embeddings" / f"{name}.safetensors", {name: ImageEmbeddings(images, images[:, :3])}, ENCODERS
            )
    write_lae(folder / "lae.safetensors", loras["train"])
    configure(folder)
    return folder


def configure(folder: Path, training: dict | None = None, loop: dict | None = None, **changed) -> Path:
    """Write config.yaml; JSON is YAML."""
    loop = {"steps": 8, "learning_rate": 0.005, "warmup": 2, "ema": 0.9, "save_every": 3} | (loop or {})
    training = {"batch": 8, "evaluation": {"interval": 4}, "delta_w_error": 0.1, "delta_w_direction": 0.1} | (
        training or {}
    )
    settings = {
        "stores": ["store"],
        "lae": "lae.safetensors",
        "output": "out",
        "encoders": {"face": "faces", "image": "images"},
        "embeddings": {"cache": ["embeddings"]},
        "dit": {"name": "miniature", "width": 16, "layers": 1, "heads": 1, "head_width": 16},
        "mif": {"width": 16},
        "training": training | {"loop": loop},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings | changed), encoding="utf-8")
    return path


def train(folder: Path) -> Path:
    return train_difflora(read_settings(DiffLoRASettings, folder / "config.yaml"))
