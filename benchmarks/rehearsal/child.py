"""A process of the rehearsal: it does one task and notes seconds and peak memory in a file.

python -m benchmarks.rehearsal.child REPORT inputs|dataset|module|diffusers|comfyui …
"""

import argparse
import json
import runpy
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peak_memory import GIB, peak_gib
from difflora_core.command_line import silence_library_logs

if TYPE_CHECKING:
    import numpy as np

PROMPT = "a portrait of a person"


@dataclass(frozen=True)
class Row:
    """What one task took."""

    name: str
    """Of the task."""
    seconds: float
    """Its time, without the start of the process."""
    gpu_gib: float | None
    """Peak of torch's tensors on the GPU, of ComfyUI what torch has reserved; None without one."""
    host_gib: float
    """Peak of the process's memory since its start."""


class Report:
    """Rows in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Measure what is done while it is open, whatever ends it."""
        if _has_gpu():
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            yield
        finally:
            peak = sys.modules["torch"].cuda.max_memory_allocated() / GIB if _has_gpu() else None
            self.add(Row(name, time.perf_counter() - start, peak, peak_gib()))

    def add(self, row: Row) -> None:
        """Append a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def _has_gpu() -> bool:
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_available()


def run_inputs(report: Report, size: str, recipe: str, single_file: str, photographs: str) -> None:
    """Write the user's inputs."""
    from benchmarks.rehearsal.inputs import SIZES, make_inputs
    from training.recipes.recipe import read_recipe

    silence_library_logs()
    with report.row("inputs (random weights, drawn people)"):
        make_inputs(SIZES[size], read_recipe(recipe), Path(single_file), Path(photographs))


def run_dataset(report: Report, settings: str, *stages: str) -> None:
    """Run stages of the dataset, each as its command; over the generated images people are drawn."""
    from training.lora_dataset.config import load_config

    for stage in stages:
        with report.row(f"dataset {stage}"):
            run_module("training", "dataset", stage, "--config", settings)
        if stage == "generate":
            config = load_config(settings)
            count = draw_over(config.stage(stage), config.generate.size)
            print(f"drew people over {count} generated images: random weights generate no faces", flush=True)


def draw_over(generated: Path, size: int) -> int:
    """Draw over generated images, which show no face while weights are random; how many there are.

    Args:
        generated: The folder of stage generate, with a folder for each person.
        size: Pixels of a side.
    """
    from PIL import Image

    from miniature.world.drawing import draw
    from miniature.world.people import person
    from miniature.world.scenes import TEACHER_SCENES

    paths = sorted(generated.glob("person_*/*.png"))
    for path in paths:
        who, scene = person(int(path.parent.name.rsplit("_", 1)[1])), TEACHER_SCENES[int(path.stem)]
        Image.fromarray(draw(who, scene, size).image).save(path)
    return len(paths)


def run_one_module(report: Report, name: str, *words: str) -> None:
    """Run a command line."""
    with report.row(name):
        run_module(*words)


def run_module(module: str, *words: str) -> None:
    """Run a module as `python -m` does.

    Raises:
        SystemExit: It ended with another exit code than 0.
    """
    before = sys.argv
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.argv = before


def run_diffusers(report: Report, base: str, lora: str, size: str, steps: str) -> None:
    """Generate an image with the LoRA in diffusers' pipeline, and without; they have to differ."""
    import numpy as np
    import torch
    from diffusers import StableDiffusionXLPipeline

    silence_library_logs()
    gpu = torch.cuda.is_available()
    with report.row("LoRA in diffusers, with the loading"):
        dtype = torch.float16 if gpu else torch.float32
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            base, dtype=dtype, local_files_only=True, add_watermarker=False
        ).to("cuda" if gpu else "cpu")

        def image() -> np.ndarray:
            generator = torch.Generator().manual_seed(0)
            side, count = int(size), int(steps)
            latents = pipeline(
                PROMPT, height=side, width=side, num_inference_steps=count, generator=generator, output_type="latent"
            )
            return latents.images.float().cpu().numpy()

        without = image()
        pipeline.load_lora_weights(str(Path(lora).parent), weight_name=Path(lora).name)
        check_different("diffusers", without, image())


def run_comfyui(report: Report, size_name: str, single_file: str, lora: str, size: str, steps: str) -> None:
    """Generate an image with the LoRA in a real ComfyUI, and without; they have to differ."""
    import torch
    from safetensors.torch import load_file

    from miniature.comfyui.host import Host, prepare_base
    from training.comfyui_client import Client

    base = prepare_base(Path(single_file).parent / "comfyui", companion=size_name == "miniature")
    (base / "models" / "checkpoints" / "rehearsal.safetensors").hardlink_to(single_file)
    shutil.copyfile(lora, base / "models" / "loras" / "person.safetensors")
    with Host(base, gpu=torch.cuda.is_available()) as host:
        client = Client(host.url)
        for name, strength in (("without the LoRA, first use", 0.0), ("with the LoRA", 1.0)):
            result = client.run(prompt(int(size), int(steps), strength), timeout=1200.0)
            report.add(Row(f"ComfyUI {name}", result.seconds, reserved_by(host.url), peak_gib(host.pid)))
    # Of the latents: an image's 8 bits might hide the LoRA's effect on a model with random weights
    latents = [load_file(path)["latent_tensor"].numpy() for path in sorted((base / "output").glob("*.latent"))]
    check_different("ComfyUI", *latents)


def prompt(size: int, steps: int, strength: float) -> dict:
    """A prompt of core nodes: checkpoint, LoRA, text, sampler, image."""

    def node(class_type: str, **inputs: object) -> dict:
        return {"class_type": class_type, "inputs": inputs, "_meta": {"title": class_type}}

    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="rehearsal.safetensors"),
        "lora": node(
            "LoraLoader",
            model=["model", 0],
            clip=["model", 1],
            lora_name="person.safetensors",
            strength_model=strength,
            strength_clip=0.0,
        ),
        "positive": node("CLIPTextEncode", clip=["model", 1], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["model", 1], text=""),
        "latent": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sample": node(
            "KSampler",
            model=["lora", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=1,
            steps=steps,
            cfg=3.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["model", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="rehearsal"),
        "save latent": node("SaveLatent", samples=["sample", 0], filename_prefix="rehearsal"),
    }


def check_different(program: str, without: "np.ndarray", with_lora: "np.ndarray") -> None:
    """Check that a LoRA has an effect and that nothing became infinite.

    Raises:
        RuntimeError: It has none, or something did.
    """
    if not all(bool((image == image).all()) and abs(image).max() < float("inf") for image in (without, with_lora)):
        raise RuntimeError(f"{program}: an image holds NaN or infinite values")
    if (without == with_lora).all():
        raise RuntimeError(f"{program}: the LoRA changes nothing")


def reserved_by(url: str) -> float | None:
    """What torch has reserved on the GPU in a ComfyUI, in GiB; None without a GPU."""
    with urllib.request.urlopen(f"{url}/system_stats", timeout=30) as answer:
        device = json.load(answer)["devices"][0]
    return None if device["type"] == "cpu" else device["torch_vram_total"] / GIB


TASKS: dict[str, Callable[..., None]] = {
    "inputs": run_inputs,
    "dataset": run_dataset,
    "module": run_one_module,
    "diffusers": run_diffusers,
    "comfyui": run_comfyui,
}
"""By name; further arguments are words of the command line."""


def main() -> None:
    """Do one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="a file of JSON lines, a row each; rows are appended")
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of the task")
    arguments = parser.parse_args()
    TASKS[arguments.task](Report(arguments.report), *arguments.words)


if __name__ == "__main__":
    main()
