"""Stage `checkpoint`: the trained parts as one single-file SDXL checkpoint."""

from __future__ import annotations

from pathlib import Path

from .base import Tokenizer, expand_vocabulary
from .single_file import save_single_file
from .train_base import load_base
from .train_vae import load_vae
from .vae import export_taesd


def write_checkpoint(build: Path, weights: Path, tokenizer: Path) -> Path:
    """Write weights/checkpoints/miniature_sdxl.safetensors and return its path."""
    base, tokens = load_base(build, Tokenizer(tokenizer))
    full = expand_vocabulary(base, tokens)
    path = weights / "checkpoints" / "miniature_sdxl.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_single_file(path, full.unet, full.text_l, full.text_g, export_taesd(load_vae(build)))
    return path
