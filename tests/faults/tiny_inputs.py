"""Inputs of the broken commands: drawn people, the miniature's models, random networks, settings.

What takes long to import is imported where it is needed: a test runs the cheapest command alone.
"""

import json
from pathlib import Path

import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.lae_file import save_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig, SamplingConfig
from difflora_core.lora.layout import LoRALayout
from difflora_core.lora.lora import LoRA
from difflora_core.model import DiffLoRA
from miniature.base_model import config as base_config
from miniature.paths import WEIGHTS
from tests.training.denoiser.toy_run import configure, write_world
from training.lora_dataset import prompt_files
from training.people.embeddings import EmbeddingCache
from training.store.lora_store import LoRAStore

PEOPLE = range(20, 26)
IMAGES = 4
LOOP = {"learning_rate": 0.003, "warmup": 2, "ema": 0.9}
LORA_FILES = 6
PROMPTS = Path(prompt_files.__file__).parent / "prompts"
ENCODERS = {"face": "miniature", "image": "miniature"}


def ensure_base(shared: Path) -> None:
    """Write the base model and link what the repository ships, unless that has been done."""
    from miniature.base_model.diffusers_folder import export_diffusers
    from miniature.comfyui.host import find_tokenizer

    if (shared / "base").exists():
        return
    shared.mkdir(parents=True, exist_ok=True)
    for name, target in {
        **{name: WEIGHTS / name for name in ("insightface", "clip_vision")},
        "prompts": PROMPTS,
    }.items():
        (shared / name).symlink_to(target)
    export_diffusers(WEIGHTS, shared / "base", find_tokenizer())


def write_faces(folder: Path, shared: Path) -> None:
    """Draw people; one of them has a second folder with other images, which is merged into the first."""
    from miniature.personal.example_dataset import draw_person_folders
    from miniature.world.scenes import TEACHER_SCENES

    ensure_base(shared)
    draw_person_folders(shared / "faces", PEOPLE, TEACHER_SCENES[:IMAGES])
    twin = f"person_{PEOPLE[0]:05d}"
    draw_person_folders(shared / "twin", PEOPLE[:1], TEACHER_SCENES[IMAGES : IMAGES + 2])
    (shared / "twin" / twin).rename(shared / "faces" / "twin")


def write_photomaker_file(folder: Path, shared: Path) -> None:
    """Write a PhotoMaker with random weights."""
    from miniature.encoders.photomaker import initial_encoder
    from training.lora_dataset.photomaker.photomaker_file import official_lora_names, write_photomaker

    layout = LoRALayout.from_config(base_config.UNET, 2)
    lora = 0.05 * torch.randn(layout.numel, generator=torch.Generator().manual_seed(1))
    write_photomaker(shared / "photomaker.bin", initial_encoder(WEIGHTS), official_lora_names(lora, layout))


def write_lora_files(folder: Path, shared: Path) -> None:
    """Write LoRA files to import; two of them are one LoRA."""
    ensure_base(shared)
    layout = LoRALayout.from_config(base_config.UNET, 4, feed_forward=True)
    generator = torch.Generator().manual_seed(2)
    for number in range(LORA_FILES):
        lora = 0.05 * torch.randn(layout.numel, generator=generator)
        LoRA(lora, layout).save(shared / "loras" / f"{number}.safetensors")
    LoRA(lora, layout).save(shared / "loras" / "copy.safetensors")


def write_toy_store(folder: Path, shared: Path) -> None:
    """Write a toy store with an LAE and embeddings, and the settings of train-lae and train-difflora."""
    write_world(folder)
    loop = {"steps": 120, "save_every": 7, "log_with": ["tensorboard"]}
    configure(folder, {"evaluation": {"interval": 30}}, loop).rename(folder / "train-difflora.yaml")
    settings = {
        "stores": ["store"],
        "output": "out",
        "lae": {"tokens": 2, "width": 2, "chunk": 12, "channels": 4, "hidden": 8},
        "training": {"batch": 8, "evaluation": {"interval": 30}, "loop": LOOP | loop},
    }
    (folder / "train-lae.yaml").write_text(json.dumps(settings), encoding="utf-8")


def write_embed_settings(folder: Path, shared: Path) -> None:
    """Write the settings of embed."""
    settings = {
        "stores": ["work/store"],
        "lae": "lae.safetensors",
        "output": "out",
        "encoders": ENCODERS,
        "embeddings": {"dataset": "dataset.yaml", "image_encoder": "../shared/clip_vision/miniature"},
    }
    (folder / "embed.yaml").write_text(json.dumps(settings), encoding="utf-8")


def write_finetuning(folder: Path, shared: Path) -> None:
    """Write an LAE and a checkpoint with untrained networks, and the settings of fine-tuning both."""
    store = LoRAStore.open(folder / "work" / "store")
    lae = LAE(store.layout, LAEConfig(kind="linear", tokens=2, width=1))
    lae.fit(store.read("train")[0])
    save_lae(folder / "lae.safetensors", lae)
    cache = folder / "work" / "embeddings" / "miniature+miniature"
    dit = DiTConfig(2, 1, 16, 1, 2, 8, condition_width=8)
    mif = MIFConfig(*EmbeddingCache.open(cache).widths, 8)
    torch.manual_seed(0)
    config = DiffLoRAConfig(lae.config, dit, mif, EncoderNames(**ENCODERS), SamplingConfig(steps=1))
    model = DiffLoRA(store.layout, config)
    model.lae.load_state_dict(lae.state_dict())
    model.save(folder / "difflora.safetensors", torch.float32)
    loop = LOOP | {"steps": 8, "save_every": 1, "device": "cpu", "unused_parameters": True}
    training = {"people": 2, "evaluation": {"interval": 4, "monitor": "teacher_recovery"}, "loop": loop}
    common = {"stores": ["work/store"], "dataset": "dataset.yaml", "validation_people": 1}
    kinds = {
        "finetune-lae": {"network": "lae.safetensors", "lae": training},
        "finetune-difflora": {
            "network": "difflora.safetensors",
            "embeddings": [str(cache.relative_to(folder))],
            "denoiser": training | {"batch": 2, "max_rollout_steps": 4},
        },
    }
    for name, own in kinds.items():
        settings = common | own | {"output": name}
        (folder / f"{name}.yaml").write_text(json.dumps(settings), encoding="utf-8")
