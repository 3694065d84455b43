"""The whole road in a real ComfyUI: pictures of unseen people become LoRAs, and those become new pictures.

    python -m miniature.demo [--people 6] [--seed 1]        (or: python -m nox -s demo)

Runs workflows/difflora_portrait.json through the server's HTTP interface and writes output/demo/sheet.png,
output/demo/report.json and the LoRA files, output/demo/loras/.
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

import numpy as np
from PIL import Image

from difflora_core.model import DiffLoRA
from miniature.comfyui.client import Client, Result
from miniature.comfyui.graph import Graph
from miniature.comfyui.host import Host, prepare_base
from miniature.measure.evaluation import face_similarity, prompt_fidelity
from miniature.paths import ROOT
from miniature.personal.held_out import CHECKPOINT, HeldOut, write_teachers
from miniature.world.drawing import draw
from miniature.world.people import Scene, caption, person, reference_scene

from .sheet import Card, Stripe, contact_sheet

WORKFLOW = ROOT / "workflows" / "difflora_portrait.json"
OUTPUT = ROOT / "output" / "demo"
REFERENCES = 3
SCENES = (
    Scene(expression="smiling", shirt="blue shirt", background="yellow"),
    Scene(expression="laughing", hat="wearing a red beanie", shirt="white shirt", background="blue"),
    Scene(glasses="wearing glasses", gaze="looking left", shirt="black shirt", background="pink"),
    Scene(expression="surprised", hat="wearing a straw hat", shirt="red shirt", background="green"),
    Scene(expression="sad", light="light from the left", shirt="green shirt", background="dark"),
)
"""What the prompts name; everything else about a scene is as always."""
SHOWN = {"no_lora": "no LoRA", "difflora": "DiffLoRA", "teacher": "teacher LoRA"}


@dataclass
class Measurements:
    """Everything one run measured, by the kind of picture; one number per picture or prompt."""

    similarity: dict[str, list[float]] = field(default_factory=dict)
    fidelity: dict[str, list[float]] = field(default_factory=dict)
    personalize: list[float] = field(default_factory=list)
    per_picture: list[float] = field(default_factory=list)
    modules_patched: str = ""


class Studio:
    """The workflow on a running server."""

    def __init__(self, host: Host, seed: int) -> None:
        """Load the example workflow as the browser would. seed: another one draws other LoRAs and other pictures."""
        self.seed = seed
        self.client, self.base = Client(host.url), host.base
        self.workflow = Graph.load(WORKFLOW, self.client.object_info())

    def of(self, index: int, references: Sequence[Image.Image]) -> Graph:
        """Return the workflow for one person, who has pictures of its own seed."""
        graph = self.workflow.copy().set("KSampler", seed=index + 10_000 * (self.seed - 1))
        graph.set("Sample LoRA", seed=self.seed)
        for number, picture in enumerate(references, start=1):
            graph.set(f"Reference {number}", image=self.client.upload(picture, f"person_{index}_{number}.png"))
        return graph

    def make_lora(self, graph: Graph, index: int) -> tuple[Path, float]:
        """Run the left half of the workflow; return the LoRA file it saved and the seconds it took."""
        prefix = f"loras/person_{index}"
        result = self.client.run(graph.copy().set("Save LoRA", prefix=prefix).only("Save LoRA").prompt)
        return max((self.base / "output").glob(f"{prefix}_*.safetensors")), result.seconds

    def picture(self, graph: Graph, scene: Scene) -> tuple[Image.Image, Result]:
        """Make one picture of a scene."""
        graph = graph.copy().set("Prompt", text=caption(scene)).only("Save Image")
        result = self.client.run(graph.prompt)
        return self.client.pictures(result, graph.id("Save Image"))[0], result


def without_lora(graph: Graph) -> Graph:
    """The workflow with the base model as it is."""
    return graph.copy().set("KSampler", model=graph.output("Load Checkpoint"))


def average_person(graph: Graph) -> Graph:
    """The workflow with the LoRA of latent zero, the average person: the distance from the average is zero."""
    return graph.copy().set("Sample LoRA", latent_scale=0.0)


def with_file(graph: Graph, name: str) -> Graph:
    """The workflow with a LoRA file, applied by ComfyUI's own loader."""
    graph = graph.copy()
    graph.add(
        "LoRA file",
        "LoraLoaderModelOnly",
        model=graph.output("Load Checkpoint"),
        lora_name=name,
        strength_model=1.0,
    )
    return graph.set("KSampler", model=graph.output("LoRA file"))


def portrait(studio: Studio, held_out: HeldOut, index: int, measured: Measurements, loras: Path) -> Card:
    """Take one person down the road: a LoRA, pictures of every kind, their measurements, and the card for the sheet."""
    who, rng = person(index), np.random.default_rng(index)
    references = [Image.fromarray(draw(who, reference_scene(rng)).image) for _ in range(REFERENCES)]
    graph = studio.of(index, references)
    file, seconds = studio.make_lora(graph, index)
    shutil.copyfile(file, loras / f"person_{index}.safetensors")
    measured.personalize.append(seconds)

    graphs = {
        "no_lora": without_lora(graph),
        "average_person": average_person(graph),
        "nearest_teacher": with_file(graph, held_out.nearest_file(index)),
        "difflora": graph,
        "teacher": with_file(graph, held_out.teacher_file(index)),
    }
    pictures: dict[str, list[Image.Image]] = {
        "real_pictures": [Image.fromarray(draw(who, scene).image) for scene in SCENES]
    }
    for kind, variant in graphs.items():
        made = [studio.picture(variant, scene) for scene in SCENES]
        pictures[kind] = [picture for picture, _ in made]
        if kind == "difflora":
            measured.per_picture += [result.seconds for _, result in made]
            measured.modules_patched = made[0][1].outputs[graph.id("Apply LoRA")]["text"][0].split()[0]
    similarity = {}
    for kind, made_pictures in pictures.items():
        cosines = face_similarity(made_pictures, references)
        similarity[kind] = float(np.mean(cosines))
        measured.similarity.setdefault(kind, []).extend(map(float, cosines))
        if kind in SHOWN:
            measured.fidelity.setdefault(kind, []).extend(map(float, prompt_fidelity(made_pictures, SCENES)))
    stripes = [Stripe(label, pictures[kind], similarity[kind], kind == "difflora") for kind, label in SHOWN.items()]
    return Card(f"person {index}", references, stripes)


def report(measured: Measurements, people: int, held_out: HeldOut) -> dict[str, object]:
    """The run in numbers: mean raw cosines, shares of prompt attributes that are right, seconds."""
    return {
        "people": people,
        "prompts": len(SCENES),
        "face_similarity": {kind: round(fmean(values), 4) for kind, values in measured.similarity.items()},
        "prompt_fidelity": {kind: round(fmean(values), 4) for kind, values in measured.fidelity.items()},
        "seconds": {
            # The first person's time includes loading the networks, so it is the median that tells.
            "personalize": round(median(measured.personalize), 3),
            "teacher": held_out.seconds_per_teacher,
            "teacher_measured": held_out.date,
            "per_picture": round(median(measured.per_picture), 3),
        },
        "lae_ratio": round(DiffLoRA.load(CHECKPOINT).lae.compression_ratio, 1),
        "modules_patched": measured.modules_patched,
    }


def main() -> None:
    """Run the demo."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=6, help="held-out people (default 6, at most 25)")
    parser.add_argument("--seed", type=int, default=1, help="of LoRAs and pictures (default 1)")
    arguments = parser.parse_args()
    people = arguments.people
    start = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    (OUTPUT / "loras").mkdir(parents=True)
    base = prepare_base(ROOT / "output" / "host")
    shutil.rmtree(base / "output" / "loras", ignore_errors=True)
    held_out = HeldOut.load()
    indices = held_out.people[:people]
    write_teachers(held_out, indices, base / "models" / "loras")
    measured, cards = Measurements(), []
    print(f"starting ComfyUI; {people} people x {len(SCENES)} prompts")
    # By default ComfyUI forgets what the last prompt did not use, for instance the checkpoint.
    with Host(base, arguments=("--cache-lru", "100")) as host:
        studio = Studio(host, arguments.seed)
        for index in indices:
            cards.append(portrait(studio, held_out, index, measured, OUTPUT / "loras"))
            print(
                f"{time.monotonic() - start:5.0f} s  person {index}: "
                + ", ".join(f"{stripe.label} {stripe.similarity:.2f}" for stripe in cards[-1].stripes)
            )
    summary = report(measured, people, held_out)
    (OUTPUT / "report.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    lines = (
        f"None of these {people} people was ever seen in training. Three pictures go in; after "
        f"{summary['seconds']['personalize']:.1f} s a LoRA comes out, and ComfyUI draws the rest with it.",  # type: ignore[index]
        "Likeness is the cosine between face embeddings of a recognizer that is used for measuring only.",
    )
    contact_sheet("DiffLoRA", lines, [_words(scene) for scene in SCENES], cards).save(OUTPUT / "sheet.png")
    print(json.dumps(summary, indent=2))
    print(f"{time.monotonic() - start:.0f} s; see {OUTPUT / 'sheet.png'}")


def _words(scene: Scene) -> str:
    """The prompt without the words that all prompts share."""
    return caption(scene).split(", ", 1)[1]
