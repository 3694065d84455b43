"""SDXL as a diffusers folder: what can be known of it without loading its weights."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from difflora_core.fields import read_json_file
from difflora_core.lora.layout import LoRALayout

FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
HASHED_BLOCKS, BLOCK_BYTES = 16, 65_536
"""How many blocks of each weight file the fingerprint reads, and their size."""


def check_folder(folder: Path) -> None:
    """Check that a folder calls itself SDXL and has all its parts. Weights are not read.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is not SDXL's, or a part is missing.
    """
    if not folder.is_dir():
        if folder.exists():
            raise ValueError(f"{folder} is a file; the base model is read from a diffusers folder (model_index.json)")
        raise FileNotFoundError(f"there is no folder {folder}; `base` names SDXL as a diffusers folder")
    index = _read_json(folder / "model_index.json")
    if not str(index.get("_class_name")).startswith("StableDiffusionXL"):
        found = index.get("_class_name", "no pipeline")
        raise ValueError(f"{folder} is not SDXL: model_index.json names {found}, expected StableDiffusionXLPipeline")
    if missing := [name for name in FOLDERS if not (folder / name).is_dir()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; expected the folders {', '.join(FOLDERS)}")
    for name in NETWORKS:
        if not any((folder / name).glob("*.safetensors")):
            raise ValueError(f"{folder / name} holds no safetensors; pickled weights are not read, convert them")
    unet = _read_json(folder / "unet" / "config.json")
    latents = unet.get("out_channels")  # inpainting and editing models take more than the latent
    for field, expected in (("addition_embed_type", "text_time"), ("in_channels", latents)):
        if unet.get(field) != expected:
            raise ValueError(f"{folder} is not SDXL base: its U-Net's {field} is {unet.get(field)!r}, not {expected!r}")


def folder_layout(folder: Path, rank: int, feed_forward: bool) -> LoRALayout:
    """Return the layout of LoRAs for the folder's U-Net, from its configuration alone.

    Raises:
        FileNotFoundError: The folder has no configuration of a U-Net.
        ValueError: It is damaged, or of something else.
    """
    return _unet_layout(json.dumps(_unet_config(folder)), rank, feed_forward)


def folder_latent_channels(folder: Path) -> int:
    """Return the channels of a latent, from the U-Net's configuration: 4 in SDXL.

    Raises:
        FileNotFoundError: The folder has no configuration of a U-Net.
        ValueError: It is damaged, or of something else.
    """
    return int(_unet_config(folder)["in_channels"])


@lru_cache(maxsize=4)  # building SDXL's modules, without weights, takes a second
def _unet_layout(config: str, rank: int, feed_forward: bool) -> LoRALayout:
    return LoRALayout.from_config(json.loads(config), rank, feed_forward)


def _unet_config(folder: Path) -> dict[str, Any]:
    path = folder / "unet" / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: `base` has to be SDXL as a diffusers folder")
    config = _read_json(path)
    if "down_block_types" not in config:  # diffusers would take the blocks of another model
        raise ValueError(f"{path} is no configuration of a U-Net: it has no `down_block_types`")
    return config


def folder_fingerprint(folder: Path, networks: Sequence[str] = ("unet",)) -> dict[str, str]:
    """Return the folder's name and for each network a hash of samples of its weights: fine-tuned models differ by it.

    The hash takes the size and 16 blocks of 64 KiB of every weight file: all of SDXL's 5 GB would take long.
    """
    return {"name": folder.name, **{network: _sample_hash(folder / network) for network in networks}}


def _sample_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "big"))
        with path.open("rb") as file:
            for block in range(HASHED_BLOCKS):
                file.seek(size * block // HASHED_BLOCKS)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; the base model is read from a diffusers folder")
    return read_json_file(path)
