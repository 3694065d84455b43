"""`python -m training personalize`: reference pictures of one person → a LoRA file, without ComfyUI.

    python -m training personalize pictures/ --checkpoint models/difflora/difflora.safetensors --out person.safetensors

Pictures that can't be read, or that show no face, are named and left out; without any other there is no LoRA.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .encoders import BATCH, NoFaceError
from .images import KINDS, SUFFIXES, read_picture
from .library_logs import silence_library_logs
from .model import DiffLoRA, LoRA

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes; unless given, sampling is as the checkpoint recommends."""
    parser.add_argument("pictures", type=Path, nargs="+", help="a folder of one person's pictures, or picture files")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the LoRA, a .safetensors file")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="a DiffLoRA checkpoint; its encoders are looked for beside its folder, as in ComfyUI's models folder. The "
        "miniature's is miniature/weights/difflora/miniature.safetensors",
    )
    parser.add_argument("--face-models", type=Path, metavar="FOLDER", help="holds models/<pack> of InsightFace")
    parser.add_argument("--image-encoder", type=Path, metavar="FOLDER", help="a CLIP vision model of transformers")
    parser.add_argument("--steps", type=int, help="denoising steps, 1 to 1000")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 is none")
    parser.add_argument("--samples", type=int, help="LoRAs that are drawn and averaged")
    parser.add_argument("--latent-scale", type=float, help="distance from the average person, 1 as predicted")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same LoRA (default 0)")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="what the networks compute in")
    parser.add_argument(
        "--format", choices=["kohya", "diffusers"], default="kohya", help="names of the tensors (default: ComfyUI's)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Read, encode, sample, write."""
    start = time.perf_counter()
    silence_library_logs()
    if arguments.out.is_dir() or arguments.out.suffix != ".safetensors":
        raise ValueError(f"--out is the file to be written, ending in .safetensors; found {arguments.out}")
    paths = picture_files(arguments.pictures)
    model = DiffLoRA.load(arguments.checkpoint, device(arguments.device), DTYPES[arguments.dtype])
    asked = {
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "samples": arguments.samples,
        "latent_scale": arguments.latent_scale,
    }
    sampling = {name: value for name, value in asked.items() if value is not None}
    replace(model.config.sampling, **sampling)  # raises for impossible settings before any picture is read
    face, image = embed(model, paths, arguments.face_models, arguments.image_encoder)
    lora = draw(model, face, image, arguments.seed, sampling)
    lora.save(arguments.out, arguments.format)
    used = max(len(embeddings) for embeddings in (face, image) if embeddings is not None)
    seconds = time.perf_counter() - start
    print(f"{arguments.out}: a LoRA from {used} of {len(paths)} pictures in {seconds:.1f} s")


def device(asked: str | None) -> torch.device:
    """The device asked for, else the GPU where there is one. Raises ValueError for a GPU that isn't there."""
    gpu = torch.cuda.is_available()
    chosen = torch.device(asked or ("cuda" if gpu else "cpu"))
    if chosen.type == "cuda" and not gpu:
        raise ValueError(f"--device {asked}: torch finds no CUDA GPU here; leave it out, or say cpu")
    return chosen


def picture_files(places: Sequence[Path]) -> list[Path]:
    """Files as they are, and the pictures of folders in alphabetical order, without those of folders inside.

    Raises FileNotFoundError for a place that isn't there, ValueError for a folder without pictures.
    """
    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"there is no picture or folder {place}")
        found = (
            sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
        )
        if not found:
            raise ValueError(f"the folder {place} holds no pictures: expected files of {', '.join(KINDS)}")
        files += found
    return files


def embed(
    model: DiffLoRA, paths: Sequence[Path], face_models: Path | None, image_encoder: Path | None
) -> tuple[Tensor | None, Tensor | None]:
    """Embeddings of the usable pictures, face (pictures, width) and image (pictures, width).

    None for an encoder that the checkpoint's mode does without. Raises ValueError, if none can be used.
    """
    mode = model.config.mif.mode
    faces = None if mode == "image" else model.face_encoder(face_models)
    images = None if mode == "face" else model.image_encoder(image_encoder)
    rows: list[Tensor] = []
    features: list[Tensor] = []
    refused: list[str] = []
    with tqdm(total=len(paths), desc="pictures", unit="picture", file=sys.stderr) as bar:
        for start in range(0, len(paths), BATCH):  # never more in memory, however many references there are
            usable: list[np.ndarray] = []
            for path in paths[start : start + BATCH]:
                try:
                    pixels = np.asarray(read_picture(path))
                    if faces is not None:
                        rows.append(faces.largest(pixels, path.name).embedding)
                    usable.append(pixels)
                except ValueError as error:  # NoFaceError is one
                    refused.append(str(error))
                    kind = "no face" if isinstance(error, NoFaceError) else "unreadable"
                    bar.write(f"left out ({kind}): {error}", file=sys.stderr)
                bar.update()
            if images is not None and usable:
                features.append(images.encode(usable))
    if len(refused) == len(paths):
        raise ValueError(f"none of the {len(paths)} pictures can be used; the first: {refused[0]}")
    return torch.stack(rows) if rows else None, torch.cat(features) if features else None


def draw(model: DiffLoRA, face: Tensor | None, image: Tensor | None, seed: int, sampling: dict[str, Any]) -> LoRA:
    """Sample with a progress bar. seed: of the noise. sampling: what differs from the checkpoint's settings."""
    with tqdm(desc="steps", unit="step", file=sys.stderr) as bar:

        def before_step(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        generator = torch.Generator().manual_seed(seed)
        lora = model.lora(face, image, generator=generator, callback=before_step, **sampling)
        bar.update((bar.total or 0) - bar.n)
    return lora
