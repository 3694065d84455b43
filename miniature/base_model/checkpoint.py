"""The trained base model as one single-file SDXL checkpoint: written by stage `base`, read by all stages after it.

So teachers and DiffLoRA are trained on the very weights that ship, and can be trained again from them alone.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .model import TinySDXL, Tokenizer, expand_vocabulary
from .single_file import SingleFile, load_single_file, save_single_file
from .train import load_base
from .train_vae import load_vae
from .vae import TinyVAE, VAEConfig, export_taesd, import_taesd


def checkpoint_path(weights: Path) -> Path:
    """The file's place in the folder of what ships."""
    return weights / "checkpoints" / "miniature_sdxl.safetensors"


def write_checkpoint(build: Path, weights: Path, tokenizer: Path) -> Path:
    """Write the checkpoint and return its path."""
    base, tokens = load_base(build, Tokenizer(tokenizer))
    full, path = expand_vocabulary(base, tokens), checkpoint_path(weights)
    save_single_file(path, full.unet, full.text_l, full.text_g, export_taesd(load_vae(build)))
    return path


def read_checkpoint(weights: Path) -> SingleFile:
    """The checkpoint's parts as modules of diffusers and transformers.

    Raises:
        FileNotFoundError: The file has not been made.
    """
    path = checkpoint_path(weights)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: make it with `python -m miniature build base`")
    return load_single_file(path)


def load_checkpoint(weights: Path) -> tuple[TinySDXL, TinyVAE]:
    """The base model and its autoencoder, for inference.

    Raises:
        FileNotFoundError: The file has not been made.
    """
    parts, model = read_checkpoint(weights), TinySDXL()
    model.unet, model.text_l, model.text_g = parts.unet, parts.text_encoder, parts.text_encoder_2
    vae = TinyVAE(VAEConfig())
    vae.load_state_dict(import_taesd(parts.taesd, vae))
    return model.eval().requires_grad_(False), vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
