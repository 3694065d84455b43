"""The command `difflora`: make a LoRA from reference images, and say what a file is.

difflora personalize photos/ --checkpoint models/difflora/difflora.safetensors --out person.safetensors
difflora info person.safetensors
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .command_line import choose_device, run_command, seed, silence_library_logs
from .encoders.face_encoder import NoFaceError
from .file_info.describe_file import describe_file
from .files import read_shapes
from .images import KINDS, describe_passed_over, is_image
from .lora.lora import METADATA_KEY
from .references import ReferenceImage

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="difflora", description="LoRAs for SDXL from reference images of a person.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_personalize(commands.add_parser("personalize", help="make a LoRA file from reference images of one person"))
    add_info(commands.add_parser("info", help="say what a safetensors file is"))
    return run_command(parser)


def add_personalize(parser: argparse.ArgumentParser) -> None:
    """Define the options of `personalize`; unless given, sampling is as the checkpoint recommends."""
    parser.add_argument("images", type=Path, nargs="+", help="a folder of one person's images, or image files")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the LoRA, a .safetensors file; a LoRA of a former run is replaced",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="a DiffLoRA checkpoint; its encoders are looked for beside its folder, as in ComfyUI's models folder. The "
        "miniature's is miniature/weights/difflora/miniature.safetensors",
    )
    parser.add_argument("--face-models", type=Path, metavar="FOLDER", help="holds models/<pack> of InsightFace")
    parser.add_argument("--image-encoder", type=Path, metavar="FOLDER", help="a CLIP vision model of transformers")
    sampling = parser.add_argument_group("sampling", "default: what the checkpoint recommends, which `info` prints")
    sampling.add_argument("--steps", type=int, help="denoising steps, 1 to 1000")
    sampling.add_argument("--guidance", type=float, help="guidance scale, 1 is none")
    sampling.add_argument("--samples", type=int, help="LoRAs that are drawn and averaged")
    sampling.add_argument("--latent-scale", type=float, help="distance from the average person, 1 as predicted")
    sampling.add_argument(
        "--temperature", type=float, help="0 to 2: how much LoRAs of different seeds differ, 0 is the prediction"
    )
    parser.add_argument("--seed", type=seed, default=0, help="the same seed gives the same LoRA (default 0)")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="what the networks compute in")
    parser.add_argument(
        "--format",
        choices=["kohya", "diffusers"],
        default="kohya",
        help="names of the tensors: kohya's for ComfyUI (default), or diffusers', which the node Save LoRA calls peft",
    )
    parser.set_defaults(run=personalize)


def personalize(arguments: argparse.Namespace) -> None:
    """Make a LoRA; images that can't be read, or that show no face, are named and left out.

    Raises:
        FileNotFoundError: An image, the checkpoint or an encoder is not there.
        ValueError: A file or setting can't be used, or no image can.
    """
    start = time.perf_counter()
    check_out(arguments.out)
    paths, others = image_files(arguments.images)
    if others:
        print(describe_passed_over(others), file=sys.stderr)
    device = choose_device(arguments.device)
    silence_library_logs()
    from .model import DiffLoRA  # brings diffusers, which takes seconds: neither `info` nor a mistake waits for it

    model = DiffLoRA.load(arguments.checkpoint, device, DTYPES[arguments.dtype])
    given = {
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "samples": arguments.samples,
        "latent_scale": arguments.latent_scale,
        "temperature": arguments.temperature,
    }
    with logging_redirect_tqdm(), ProgressBars(len(paths)) as bars:  # remarks on references stand above the bars
        lora = model.personalize(
            paths,
            generator=torch.Generator().manual_seed(arguments.seed),
            face_root=arguments.face_models,
            image_encoder=arguments.image_encoder,
            unusable="skip",
            on_image=bars.on_image,
            callback=bars.before_step,
            **{name: value for name, value in given.items() if value is not None},
        )
    lora.save(arguments.out, arguments.format)
    seconds = time.perf_counter() - start
    print(f"{arguments.out}: a LoRA from {lora.made_by['references']} of {len(paths)} images in {seconds:.1f} s")


class ProgressBars:
    """A bar of the images, and when all are encoded one of the sampler's steps; a context manager."""

    def __init__(self, images: int) -> None:
        self.images: tqdm = tqdm(total=images, desc="images", unit="image")
        self.steps: tqdm | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self.steps is not None and error is None:
            self.steps.update(self.steps.total - self.steps.n)
        for bar in (self.steps, self.images):
            if bar is not None:
                bar.close()

    def on_image(self, image: ReferenceImage) -> None:
        """Count an image; say why it is left out."""
        if image.error is not None:
            reason = "no face" if isinstance(image.error, NoFaceError) else "unreadable"
            self.images.write(f"left out ({reason}): {image.error}", file=sys.stderr)
        self.images.update()

    def before_step(self, step: int, total: int) -> None:
        """Count the steps that are done."""
        if self.steps is None:
            self.images.close()
            self.steps = tqdm(total=total, desc="steps", unit="step")
        self.steps.update(step - self.steps.n)


def check_out(path: Path) -> None:
    """Check, before any work, that a LoRA can be written to a place and takes nothing from there but a former one.

    Raises:
        ValueError: The place is a folder, has another suffix, is below a file, or holds what is no LoRA of ours.
    """
    if path.is_dir() or path.suffix != ".safetensors":
        raise ValueError(f"--out is the file to be written, ending in .safetensors; found {path}")
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"--out is {path}, but {above} is a file, expected a folder")
    if path.exists() and METADATA_KEY not in read_shapes(path)[1]:
        raise ValueError(
            f"--out would replace {describe_file(path)[0]}; only LoRAs made by DiffLoRA are replaced: name another"
        )


def image_files(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """List files as they are, and the images of folders in alphabetical order, without those of folders inside.

    Returns:
        The images, and the names of files in folders that are none. Hidden files are neither.

    Raises:
        FileNotFoundError: A place isn't there.
        ValueError: A folder has no images.
    """
    files: list[Path] = []
    others: list[str] = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"there is no image or folder {place}")
        if not place.is_dir():
            files.append(place)
            continue
        inside = sorted(path for path in place.iterdir() if not path.name.startswith(".") and not path.is_dir())
        found = [path for path in inside if is_image(path)]
        passed_over = [path.name for path in inside if not is_image(path)]
        if not found:
            hint = f"; {describe_passed_over(passed_over)}" if passed_over else f": expected {', '.join(KINDS)}"
            raise ValueError(f"the folder {place} holds no images{hint}")
        files += found
        others += passed_over
    return files, others


def add_info(parser: argparse.ArgumentParser) -> None:
    """Define the options of `info`."""
    parser.add_argument(
        "file", type=Path, help="a .safetensors file: a checkpoint, a LoRA, an identity, an embedding, a base model …"
    )
    parser.add_argument("--metadata", action="store_true", help="show all metadata of the file, too")
    parser.set_defaults(run=lambda arguments: print("\n".join(describe_file(arguments.file, arguments.metadata))))


if __name__ == "__main__":
    sys.exit(main())
