"""A whole recipe in a few minutes: models with random weights, drawn people, a few steps of everything.

    python -m benchmarks.rehearsal [--recipe sdxl-24gb] [--size sdxl] [--folder output/rehearsal] [--json FILE]

The recipe's folder is copied, and its trainings and samplers are cut to a few steps; image sizes and batches stay, so
that memory is real. Then its steps run, each in a process of its own, PhotoMaker's generation and the evaluation of one
person included, then `difflora personalize`, and the LoRA goes into diffusers' pipeline and into a real ComfyUI with a
single-file checkpoint of that size. A table of seconds and peak memory is printed. Nothing is downloaded; the tokenizer
is the one that ComfyUI carries.

What is not as in earnest: weights are random; the face models are the miniature's, under the configured name, since
there are no others to be had here; random weights generate no faces, so people are drawn over the generated images
before the filter sees them; a pilot is left out, since LoRAs of random weights make nobody more alike; on several GPUs
one is used.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.rehearsal.child import TASKS, Report, Row
from miniature.paths import ROOT
from training.engine.settings import read_section
from training.lora_dataset.config import load_config
from training.lora_dataset.stage_registry import IMAGE_STAGES, ORDER
from training.people.config import EmbeddingSettings
from training.recipes.recipe import FILE, FOLDER, Recipe, Step, dataset_step, missing_inputs, read_recipe
from training.recipes.run import command_of
from training.recipes.step_files import CHECKPOINT_FILE

RECIPES = {"sdxl": "sdxl-24gb", "miniature": "miniature"}
"""By size, if none is named."""
SIDES = {"sdxl": "1024", "miniature": "128"}
"""Pixels of the images that the LoRA is tried on."""
STAGES = {"dataset all": ORDER, "dataset images": IMAGE_STAGES}
"""Of the dataset, by command."""
STEPS = "2"
"""Of the samplers that it is tried with."""


@dataclass
class Rehearsal:
    """A folder in which a recipe is walked, and what was measured."""

    folder: Path
    """With the copy of the recipe, models, images and results."""
    size: str
    """Of the models, a name of `inputs.SIZES`."""
    one_process: bool = False
    """Whether all tasks run in this process: faster, but the host's memory is then the peak of all tasks so far."""
    rows: list[Row] = field(default_factory=list)
    """What each task took."""

    def run(self, recipe: str) -> None:
        """Do everything.

        Raises:
            FileExistsError: The folder holds something.
            RuntimeError: A task failed.
        """
        if self.folder.exists() and any(self.folder.iterdir()):
            raise FileExistsError(f"{self.folder} is not empty: delete it, or name another folder")
        source = Path(recipe) if (Path(recipe) / FILE).is_file() else FOLDER / recipe
        read_recipe(str(source))
        copied = shutil.copytree(source, self.folder / "training" / "recipes" / source.name)
        single_file, photographs = self.folder / "single_file.safetensors", self.folder / "photographs"
        self.task("inputs", self.size, str(copied), str(single_file), str(photographs))
        own = read_recipe(str(copied))
        if missing := missing_inputs(own.steps):
            raise FileNotFoundError(f"the rehearsal did not make what the recipe needs: {'; '.join(missing)}")
        for step in own.steps:
            if step.command != "pilot":
                self.step(step)
        lora = self.folder / "person.safetensors"
        self.personalize(own, next(path for path in sorted(photographs.iterdir()) if path.is_dir()), lora)
        config = load_config(dataset_step(own).settings)
        self.task("diffusers", str(config.base), str(lora), SIDES[self.size], STEPS)
        self.task("comfyui", self.size, str(single_file), str(lora), SIDES[self.size], STEPS)

    def step(self, step: Step) -> None:
        """Run a step of the recipe; the dataset's stages one by one."""
        if step.is_dataset:
            self.task("dataset", str(step.settings), *STAGES[step.command])
        else:
            self.task("module", step.name, *command_of(step, gpus=1)[2:])  # without `python -m`

    def personalize(self, recipe: Recipe, images: Path, lora: Path) -> None:
        """Make a LoRA of one person with the recipe's last checkpoint."""
        config = load_config(dataset_step(recipe).settings)
        (encoder,) = (
            read_section(EmbeddingSettings, step.settings, "embeddings").image_encoder
            for step in recipe.steps
            if step.command == "embed"
        )
        written = [path for step in recipe.steps for path in step.files.writes if path.name == CHECKPOINT_FILE]
        words = ["difflora_core.command", "personalize", str(images), "--out", str(lora)]
        words += ["--checkpoint", str(written[-1])]
        words += ["--face-models", str(config.faces.root), "--image-encoder", str(encoder)]
        self.task("module", "difflora personalize", *words)

    def task(self, *words: str) -> None:
        """Do a task, in a process of its own unless told otherwise, and keep what it took, also if it fails.

        Raises:
            RuntimeError: It failed.
        """
        report = self.folder / "report.jsonl"
        report.unlink(missing_ok=True)
        try:
            self._do(report, words)
        finally:
            if report.exists():
                self.rows += [Row(**json.loads(line)) for line in report.read_text("utf-8").splitlines()]

    def _do(self, report: Path, words: Sequence[str]) -> None:
        if self.one_process:
            TASKS[words[0]](Report(report), *words[1:])
            return
        command = [sys.executable, "-m", "benchmarks.rehearsal.child", str(report), *words]
        environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ  # one GPU: the memory of workers is not seen
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if code:
            task = " ".join(command[1:])
            raise RuntimeError(f"a task of the rehearsal failed with exit code {code}, see above: {task}")


def describe(rows: Sequence[Row], title: str) -> str:
    """Return the table in lines."""
    lines = [title, f"{'':42s}{'seconds':>9s}{'GPU GiB':>9s}{'host GiB':>10s}"]
    for row in rows:
        gpu = "" if row.gpu_gib is None else f"{row.gpu_gib:.1f}"
        lines.append(f"{row.name:42s}{row.seconds:9.1f}{gpu:>9s}{row.host_gib:10.1f}")
    return "\n".join(lines)


def default_size() -> str:
    """Return `sdxl` where there is a GPU, else `miniature`."""
    return "sdxl" if torch.cuda.is_available() else "miniature"


def main() -> None:
    """Rehearse and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="the name of a shipped recipe, or a folder (default: by the size)")
    parser.add_argument("--size", choices=list(RECIPES), help="of the models (default: sdxl on a GPU, else miniature)")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "rehearsal", help="of everything; 30 GB")
    parser.add_argument("--one-process", action="store_true", help="faster; the host's memory is a peak of all so far")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    size = arguments.size or default_size()
    recipe, start = arguments.recipe or RECIPES[size], time.perf_counter()
    rehearsal = Rehearsal(arguments.folder.resolve(), size, arguments.one_process)
    try:
        rehearsal.run(recipe)
    finally:
        print(describe(rehearsal.rows, f"recipe {recipe}, models of size {size}: {time.perf_counter() - start:.0f} s"))
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(row) for row in rehearsal.rows], indent=1), "utf-8")


if __name__ == "__main__":
    main()
