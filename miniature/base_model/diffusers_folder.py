"""The miniature's single-file checkpoint as a folder that diffusers' SDXL pipeline reads.

model_index.json, unet/, text_encoder/, text_encoder_2/, tokenizer/, tokenizer_2/, scheduler/, vae/
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from .checkpoint import read_checkpoint
from .model import noise_scheduler


def export_diffusers(weights: Path, folder: Path, tokenizer: Path) -> Path:
    """Write the checkpoint as an SDXL folder of diffusers, in float32, and return the folder.

    A folder written earlier is replaced; at any moment `folder` is either absent or whole.

    Args:
        weights: Folder of what ships.
        folder: The folder to write.
        tokenizer: Folder with SDXL's vocab.json and merges.txt.

    Raises:
        FileNotFoundError: There is no checkpoint or no tokenizer.
        FileExistsError: `folder` holds something else.
    """
    if not (tokenizer / "merges.txt").exists():
        raise FileNotFoundError(f"no SDXL tokenizer in {tokenizer}: expected vocab.json and merges.txt there")
    if folder.exists() and any(folder.iterdir()) and not (folder / "model_index.json").exists():
        raise FileExistsError(f"{folder} holds files that are no diffusers model; choose another folder")
    parts = read_checkpoint(weights)
    pipeline = StableDiffusionXLPipeline(
        vae=diffusers_autoencoder(parts.taesd),
        text_encoder=parts.text_encoder,
        text_encoder_2=parts.text_encoder_2,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True, model_max_length=77),
        # As SDXL's second tokenizer: the rest of the 77 is filled with "!", whose id is 0
        tokenizer_2=CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True, model_max_length=77, pad_token="!"),
        unet=parts.unet,
        scheduler=DDIMScheduler.from_config(noise_scheduler().config),
        # As in training and in ComfyUI, the empty caption is encoded like any other
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{suffix}") for suffix in ("partial", "old"))
    try:
        pipeline.save_pretrained(partial, safe_serialization=True)
        if folder.exists():
            folder.replace(old)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def diffusers_autoencoder(taesd: Mapping[str, Tensor]) -> AutoencoderTiny:
    """Diffusers' TAESD with this state: images in [-1, 1], latents of unit variance, as the U-Net takes them."""
    channels = taesd["taesd_decoder.1.weight"].shape[1]
    vae = AutoencoderTiny(scaling_factor=1.0, latent_channels=channels)
    vae.load_state_dict({_diffusers_name(name): tensor for name, tensor in taesd.items() if name.startswith("taesd_")})
    return vae.eval().requires_grad_(False)


def _diffusers_name(name: str) -> str:
    """taesd_decoder.1.weight → decoder.layers.0.weight: diffusers' decoder clamps outside its list of layers."""
    match = re.fullmatch(r"taesd_(encoder|decoder)\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"{name} is no tensor of a TAESD network: expected taesd_encoder.N… or taesd_decoder.N…")
    shift = 1 if match[1] == "decoder" else 0
    return f"{match[1]}.layers.{int(match[2]) - shift}.{match[3]}"
