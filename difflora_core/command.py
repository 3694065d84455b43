"""The command `difflora`: make a LoRA from reference images, and say what a file is.

difflora personalize photos/ --checkpoint models/difflora/difflora.safetensors --out person.safetensors
difflora info person.safetensors
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .autoencoder.config import LAEConfig
from .autoencoder.lae_file import HEADER as LAE_HEADER
from .autoencoder.lae_file import read_lae_header
from .checkpoint import HEADER, read_checkpoint_header
from .command_line import choose_device, run_command, seed, silence_library_logs
from .encoders.face_encoder import NoFaceError
from .fields import read_json
from .files import read_shapes
from .images import KINDS, describe_passed_over, is_image
from .lora.layout import LoRALayout
from .lora.lora import METADATA_KEY
from .lora.tensor_names import parse
from .references import ReferenceImage

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="difflora", description="LoRAs for SDXL from reference images of a person.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_personalize(commands.add_parser("personalize", help="make a LoRA file from reference images of one person"))
    add_info(commands.add_parser("info", help="say what a checkpoint or LoRA file is"))
    return run_command(parser)


def add_personalize(parser: argparse.ArgumentParser) -> None:
    """Define the options of `personalize`; unless given, sampling is as the checkpoint recommends."""
    parser.add_argument("images", type=Path, nargs="+", help="a folder of one person's images, or image files")
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
    parser.add_argument("--seed", type=seed, default=0, help="the same seed gives the same LoRA (default 0)")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="what the networks compute in")
    parser.add_argument(
        "--format", choices=["kohya", "diffusers"], default="kohya", help="names of the tensors (default: ComfyUI's)"
    )
    parser.set_defaults(run=personalize)


def personalize(arguments: argparse.Namespace) -> None:
    """Make a LoRA; images that can't be read, or that show no face, are named and left out.

    Raises:
        FileNotFoundError: An image, the checkpoint or an encoder is not there.
        ValueError: A file or setting can't be used, or no image can.
    """
    from .model import DiffLoRA  # brings diffusers, which takes seconds, and `info` does without

    start = time.perf_counter()
    silence_library_logs()
    if arguments.out.is_dir() or arguments.out.suffix != ".safetensors":
        raise ValueError(f"--out is the file to be written, ending in .safetensors; found {arguments.out}")
    paths, others = image_files(arguments.images)
    if others:
        print(describe_passed_over(others), file=sys.stderr)
    model = DiffLoRA.load(arguments.checkpoint, choose_device(arguments.device), DTYPES[arguments.dtype])
    given = {
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "samples": arguments.samples,
        "latent_scale": arguments.latent_scale,
    }
    with (
        tqdm(total=len(paths), desc="images", unit="image", file=sys.stderr) as images,
        tqdm(desc="steps", unit="step", file=sys.stderr, delay=0.1) as steps,  # not shown before the images are read
    ):

        def on_image(image: ReferenceImage) -> None:
            if image.error is not None:
                reason = "no face" if isinstance(image.error, NoFaceError) else "unreadable"
                images.write(f"left out ({reason}): {image.error}", file=sys.stderr)
            images.update()

        def before_step(step: int, total: int) -> None:
            if step == 0:
                images.close()
                steps.reset(total)
            steps.update(step - steps.n)

        lora = model.personalize(
            paths,
            generator=torch.Generator().manual_seed(arguments.seed),
            face_root=arguments.face_models,
            image_encoder=arguments.image_encoder,
            unusable="skip",
            on_image=on_image,
            callback=before_step,
            **{name: value for name, value in given.items() if value is not None},
        )
        steps.update((steps.total or 0) - steps.n)
    lora.save(arguments.out, arguments.format)
    seconds = time.perf_counter() - start
    print(f"{arguments.out}: a LoRA from {lora.made_by['references']} of {len(paths)} images in {seconds:.1f} s")


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
    parser.add_argument("file", type=Path, help="a DiffLoRA checkpoint, an autoencoder or a LoRA, .safetensors")
    parser.set_defaults(run=lambda arguments: print("\n".join(describe_file(arguments.file))))


def describe_file(path: Path) -> list[str]:
    """Describe a checkpoint, an autoencoder or a LoRA, one fact a line; the tensors are not read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or damaged.
    """
    shapes, metadata = read_shapes(path)
    if LAE_HEADER in metadata:
        layout, lae, provenance = read_lae_header(path, metadata)
        facts = ["LoRA autoencoder (LAE)", *_layout(layout), _lae(layout, lae), *_tree(provenance)]
    elif HEADER in metadata and METADATA_KEY not in metadata:
        facts = _checkpoint(path, metadata, shapes)
    elif any(parse(name).role == "down" for name in shapes):
        facts = _lora(shapes, metadata)
    else:
        raise ValueError(
            f"{path} is neither a DiffLoRA checkpoint nor a LoRA: {len(shapes)} tensors, the first "
            f"{next(iter(shapes), 'none')!r}."
        )
    size, megabytes = sum(math.prod(shape) for shape in shapes.values()), path.stat().st_size / 1e6
    return [f"{path}: {facts[0]}", f"file: {megabytes:.1f} MB, {len(shapes)} tensors, {size:,} values", *facts[1:]]


def _checkpoint(path: Path, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    layout, config = read_checkpoint_header(path, metadata, shapes)
    dit, sampling = config.dit, config.sampling
    return [
        "DiffLoRA checkpoint",
        *_layout(layout),
        _lae(layout, config.lae),
        f"DiT: {dit.layers} layers, width {dit.width}, {dit.heads} heads of width {dit.head_width}",
        f"MIF: mode {config.mif.mode}, condition of width {config.mif.width}",
        f"face encoder: {config.encoders.face}, embeddings of width {config.mif.face_width}",
        f"image encoder: {config.encoders.image}, embeddings of width {config.mif.image_width}",
        f"recommended sampling: {sampling.steps} steps, guidance {sampling.guidance_scale:g}, scheduler "
        f"{sampling.scheduler}, {sampling.samples} samples, latent scale {sampling.latent_scale:g}",
        *_tree(config.provenance),
    ]


def _layout(layout: LoRALayout) -> list[str]:
    modules, base = len(layout.modules), layout.base_model
    return [f"makes LoRAs: base model {base}, {modules} modules, rank {layout.rank}, {layout.numel:,} weights"]


def _lae(layout: LoRALayout, config: LAEConfig) -> str:
    ratio = layout.numel / (config.tokens * config.width)
    return f"LAE: {config.kind}, latent {config.tokens} × {config.width}, compression {ratio:.0f} to 1"


def _lora(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> list[str]:
    downs = {name: shape for name, shape in shapes.items() if parse(name).role == "down"}
    ranks = sorted({shape[0] for shape in downs.values()})
    names = "kohya" if all(name.endswith("lora_down.weight") for name in downs) else "PEFT or diffusers"
    facts = [
        "LoRA made by DiffLoRA" if METADATA_KEY in metadata else "LoRA of other origin",
        f"names: {names}, {len(downs)} modules, rank {', '.join(map(str, ranks))}",
    ]
    if METADATA_KEY in metadata:
        return [*facts, *_tree(read_json(metadata[METADATA_KEY], f"the entry {METADATA_KEY!r}"), "made by")]
    others = {name: value for name, value in metadata.items() if name != "format"}
    return [*facts, *(f"{name}: {value:.200}" for name, value in sorted(others.items()))]


def _tree(values: Mapping[str, Any], title: str = "training") -> Iterator[str]:
    """List nested figures below a title, those of one level on a line."""
    if not values:
        return
    if title != "training" and not any(isinstance(value, Mapping) for value in values.values()):
        yield f"{title}: " + ", ".join(f"{name} {_figure(value)}" for name, value in values.items())
        return
    yield f"{title}:"
    for name, value in values.items():
        lines = _tree(value, name) if isinstance(value, Mapping) else [f"{name}: {_figure(value)}"]
        yield from (f"  {line}" for line in lines)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
