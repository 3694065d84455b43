"""A store of small LoRAs, and runs of train-lae on it."""

import json
from argparse import Namespace
from pathlib import Path

import torch

from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.autoencoder import command as train_lae
from training.store.lora_store import LoRAStore

LAYOUT = LoRALayout((LoRAModule("a", 12, 10), LoRAModule("b", 8, 12)), rank=2)
SETTINGS = {
    "stores": ["store"],
    "output": "out",
    "lae": {"tokens": 2, "width": 2, "chunk": 12, "channels": 4, "hidden": 8},
    "training": {
        "batch": 8,
        "evaluation": {"interval": 6},
        "loop": {"steps": 12, "learning_rate": 3e-3, "warmup": 2, "ema": 0.9, "log_with": ["tensorboard"]},
    },
}


def people(count: int, seed: int = 0) -> torch.Tensor:
    """LoRAs (count, numel) on a curved two-dimensional surface."""
    position = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    waves = torch.cat([position, (2.0 * position).sin(), position.square(), position.prod(1, keepdim=True)], dim=1)
    return waves @ torch.randn(waves.shape[1], LAYOUT.numel, generator=torch.Generator().manual_seed(1))


def written(folder: Path, **changed) -> Path:
    """A store of 24 and 8 people, and the settings in a file; `training` and `lae` are changed key by key."""
    if not (folder / "store").exists():
        store = LoRAStore(folder / "store", LAYOUT)
        for at, seed in ((0, 0), (12, 5)):
            store.add("train", [f"t{i:02d}" for i in range(at, at + 12)], people(12, seed))
        store.add("validation", [f"v{i}" for i in range(8)], people(8, 9))
    settings = json.loads(json.dumps(SETTINGS))
    for name, value in changed.items():
        settings[name] = settings.get(name, {}) | value if isinstance(value, dict) else value
    (folder / "lae.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return folder / "lae.yaml"


def train(folder: Path, dry_run: bool = False, **changed) -> None:
    train_lae.COMMAND.run(Namespace(config=written(folder, **changed), dry_run=dry_run))
