"""The whole pipeline in a real ComfyUI: LoRAs from reference images of held-out people, and new images with the LoRAs.

    python -m miniature.demo [--people 6] [--seed 1]        (or: python -m nox -s demo)

Runs workflows/2-Portrait-from-several-pictures.json through the server's HTTP interface and writes
output/demo/sheet.png, output/demo/overview.png (the README's picture), output/demo/report.json and the LoRA files,
output/demo/loras/.
"""

import argparse
import json
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from PIL import Image

from difflora_core.model import DiffLoRA
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host, interrupt_on_signals, prepare_base
from miniature.measure.metrics import face_similarity, prompt_fidelity
from miniature.paths import DIFFLORA_CHECKPOINT, ROOT
from miniature.personal.held_out_teachers import HeldOutTeachers
from miniature.world.drawing import draw, draw_references
from miniature.world.people import person
from miniature.world.scenes import DEMO_SCENES, Scene, caption
from training.comfyui_client import Client, Result

from .contact_sheet import ImageRow, PersonResults, contact_sheet, overview

WORKFLOW = ROOT / "workflows" / "2-Portrait-from-several-pictures.json"
OUTPUT = ROOT / "output" / "demo"
LEAD = (7022, 7011, 7001, 7014, 7019, 7008)
"""Held-out people on the sheet unless a number is asked for: they differ at a glance. Chosen by their drawings alone,
before anything was generated."""
OVERVIEW = 4
"""People in the picture of the README."""
SHOWN = {"no_lora": "no LoRA", "difflora": "DiffLoRA", "teacher": "LoRA trained for this person ({seconds:.1f} s)"}
"""Kinds of LoRA that are on the sheet, and their labels."""


@dataclass
class Measurements:
    """What one run measures, over all people."""

    similarity: dict[str, list[float]] = field(default_factory=dict)
    """Face similarity of each image, by kind of LoRA."""
    fidelity: dict[str, list[float]] = field(default_factory=dict)
    """Prompt fidelity of each image, by kind of LoRA."""
    personalize: list[float] = field(default_factory=list)
    """Seconds to make each person's LoRA."""
    per_image: list[float] = field(default_factory=list)
    """Seconds to generate each image with DiffLoRA."""
    modules_patched: str = ""
    """Modules that DiffLoRA's LoRA changes, of all modules in the LoRA."""


class DemoWorkflow:
    """The example workflow on a running server."""

    def __init__(self, host: Host, seed: int) -> None:
        """Load the workflow as the browser would.

        Args:
            host: A running ComfyUI.
            seed: Of LoRAs and images.
        """
        self.seed = seed
        self.client, self.base = Client(host.url), host.base
        self.prompt = ApiPrompt.load(WORKFLOW, self.client.object_info())

    def for_person(self, index: int, references: Sequence[Image.Image]) -> ApiPrompt:
        """Return the workflow for one person; each has an own seed for the images."""
        prompt = self.prompt.copy().set("KSampler", seed=index + 10_000 * (self.seed - 1))
        prompt.set("Sample LoRA", seed=self.seed)
        for number, image in enumerate(references, start=1):
            prompt.set(f"Your picture {number}", image=self.client.upload(image, f"person_{index}_{number}.png"))
        return prompt

    def make_lora(self, prompt: ApiPrompt, index: int) -> tuple[Path, float]:
        """Run the left half of the workflow; return the LoRA file it saved and the seconds it took."""
        name = f"person_{index}"
        result = self.client.run(prompt.copy().set("Save LoRA", filename_prefix=name).only("Save LoRA").prompt)
        return max((self.base / "output" / "loras").glob(f"{name}_*.safetensors")), result.seconds

    def generate(self, prompt: ApiPrompt, scene: Scene) -> tuple[Image.Image, Result]:
        """Generate one image of a scene."""
        prompt = prompt.copy().set("Your prompt", text=caption(scene)).only("Save Image")
        result = self.client.run(prompt.prompt)
        return self.client.images(result, prompt.id("Save Image"))[0], result


def teacher_file(index: int) -> str:
    """Name of a person's teacher in models/loras."""
    return f"teacher_{index}.safetensors"


def without_lora(prompt: ApiPrompt) -> ApiPrompt:
    """The workflow with the base model alone."""
    return prompt.copy().set("KSampler", model=prompt.output("Load Checkpoint"))


def average_person(prompt: ApiPrompt) -> ApiPrompt:
    """The workflow with the LoRA of latent zero, the average person."""
    return prompt.copy().set("Sample LoRA", settings="custom", latent_scale=0.0)


def with_file(prompt: ApiPrompt, name: str) -> ApiPrompt:
    """The workflow with a LoRA file, by ComfyUI's own hooks on the positive prompt's side alone, as with DiffLoRA."""
    prompt = without_lora(prompt)
    prompt.add("LoRA file", "CreateHookLoraModelOnly", lora_name=name, strength_model=1.0)
    prompt.add(
        "With the file",
        "ConditioningSetProperties",
        cond_NEW=prompt.output("Your prompt"),
        hooks=prompt.output("LoRA file"),
        strength=1.0,
        set_cond_area="default",
    )
    return prompt.set("KSampler", positive=prompt.output("With the file"))


def evaluate_person(
    workflow: DemoWorkflow, held_out: HeldOutTeachers, index: int, measured: Measurements, loras: Path
) -> PersonResults:
    """Make one person's LoRA, generate images with every kind of LoRA, and measure them.

    Args:
        workflow: On a running server.
        held_out: LoRAs to compare with.
        index: Of the person.
        measured: Gets this person's figures.
        loras: Folder to which the LoRA is copied.

    Returns:
        What the contact sheet shows of the person.
    """
    who = person(index)
    # Published figures depend on these draws
    references = [Image.fromarray(image) for image in draw_references(index, np.random.default_rng(index))]
    prompt = workflow.for_person(index, references)
    file, seconds = workflow.make_lora(prompt, index)
    shutil.copyfile(file, loras / f"person_{index}.safetensors")
    measured.personalize.append(seconds)

    prompts = {
        "no_lora": without_lora(prompt),
        "average_person": average_person(prompt),
        "difflora": prompt,
        "teacher": with_file(prompt, teacher_file(index)),
    }
    images = {"real_images": [Image.fromarray(draw(who, scene).image) for scene in DEMO_SCENES]}
    for kind, variant in prompts.items():
        generated = [workflow.generate(variant, scene) for scene in DEMO_SCENES]
        images[kind] = [image for image, _ in generated]
        if kind == "difflora":
            measured.per_image += [result.seconds for _, result in generated]
            measured.modules_patched = generated[0][1].outputs[prompt.id("Your strength")]["text"][0].split()[0]
    rows = []
    for kind, own in images.items():
        cosines = face_similarity(own, references)
        measured.similarity.setdefault(kind, []).extend(map(float, cosines))
        if kind in SHOWN:
            measured.fidelity.setdefault(kind, []).extend(map(float, prompt_fidelity(own, DEMO_SCENES)))
            label = SHOWN[kind].format(seconds=held_out.seconds_per_teacher)
            rows.append(ImageRow(label, own, float(np.mean(cosines)), kind == "difflora"))
    return PersonResults(f"person {index}", references, rows)


def report(measured: Measurements, people: int, held_out: HeldOutTeachers) -> dict[str, Any]:
    """Summarize the run: mean face similarity, mean prompt fidelity, seconds."""
    return {
        "people": people,
        "prompts": len(DEMO_SCENES),
        "face_similarity": {kind: round(fmean(values), 4) for kind, values in measured.similarity.items()},
        "prompt_fidelity": {kind: round(fmean(values), 4) for kind, values in measured.fidelity.items()},
        "seconds": {
            # The median, because the first person's time includes loading the networks
            "personalize": round(median(measured.personalize), 3),
            "teacher": held_out.seconds_per_teacher,
            "teacher_measured": held_out.date,
            "per_image": round(median(measured.per_image), 3),
        },
        "lae_ratio": round(DiffLoRA.load(DIFFLORA_CHECKPOINT).lae.compression_ratio, 1),
        "modules_patched": measured.modules_patched,
    }


def run(people: int | None, seed: int) -> None:
    """Measure held-out people and write sheet, report and LoRAs.

    Args:
        people: How many of the held-out people, the first ones; None: `LEAD`.
        seed: Of LoRAs and images.
    """
    start = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    (OUTPUT / "loras").mkdir(parents=True)
    base = prepare_base(ROOT / "output" / "host")
    shutil.rmtree(base / "output" / "loras", ignore_errors=True)
    held_out = HeldOutTeachers.load()
    indices = LEAD if people is None else held_out.people[:people]
    for index in indices:
        held_out.write(index, base / "models" / "loras" / teacher_file(index))
    measured, results = Measurements(), []
    print(f"starting ComfyUI; {len(indices)} people x {len(DEMO_SCENES)} prompts")
    # By default ComfyUI drops what the last prompt did not use, for instance the checkpoint
    with Host(base, arguments=("--cache-lru", "100")) as host:
        workflow = DemoWorkflow(host, seed)
        for index in indices:
            results.append(evaluate_person(workflow, held_out, index, measured, OUTPUT / "loras"))
            figures = ", ".join(f"{row.label} {row.similarity:.2f}" for row in results[-1].rows)
            print(f"{time.monotonic() - start:5.0f} s  person {index}: {figures}")
    summary = report(measured, len(indices), held_out)
    (OUTPUT / "report.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    write_images(results, summary["seconds"]["personalize"])
    print(json.dumps(summary, indent=2))
    print(f"{time.monotonic() - start:.0f} s; see {OUTPUT / 'sheet.png'}")


def write_images(results: Sequence[PersonResults], seconds: float) -> None:
    """Write the contact sheet and the README's picture.

    Args:
        results: Of all people.
        seconds: That it took to make a LoRA.
    """
    lines = (
        f"None of these {len(results)} people was in the training data. A LoRA is made from three reference images in "
        f"{seconds:.1f} s; ComfyUI generates the images with it.",
        "Likeness is the cosine between face embeddings of a recognizer that is used for measuring only.",
    )
    sheet = contact_sheet("DiffLoRA", lines, [_short_caption(scene) for scene in DEMO_SCENES], results)
    sheet.save(OUTPUT / "sheet.png")
    overview(results[:OVERVIEW]).save(OUTPUT / "overview.png")


def _short_caption(scene: Scene) -> str:
    """The prompt without the words that all prompts share."""
    return caption(scene).split(", ", 1)[1]


def main() -> None:
    """Parse the command line and run the demo."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, help="the first held-out people, at most 25 (default: six that differ)")
    parser.add_argument("--seed", type=int, default=1, help="of LoRAs and images (default 1)")
    arguments = parser.parse_args()
    interrupt_on_signals()
    run(arguments.people, arguments.seed)
