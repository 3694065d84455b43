"""How much likeness a personal LoRA keeps beside a ControlNet and a second LoRA, in a real ComfyUI.

    python -m benchmarks.images.composition [--people 8] [--split validation] [--seed 1]

Runs workflow 7 for each person with the pose of another drawn person, four times: with DiffLoRA's LoRA alone, with the
ControlNet, with the second LoRA (a blue beanie), and with both. The workflow's own strengths are used.
"""

import argparse
import json
from itertools import pairwise
from statistics import fmean

import numpy as np
from PIL import Image
from tqdm import tqdm

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host, prepare_base
from miniature.measure.metrics import face_similarity
from miniature.paths import ROOT
from miniature.world.drawing import draw, draw_references
from miniature.world.people import person, split_people
from miniature.world.scenes import CONTROL_SCENES, Scene, caption
from training.comfyui_client import Client

WORKFLOW = ROOT / "workflows" / "7-ControlNet-and-a-second-LoRA.json"
VARIANTS = {
    "LoRA alone": ("Apply ControlNet", "Second LoRA"),
    "with ControlNet": ("Second LoRA",),
    "with second LoRA": ("Apply ControlNet",),
    "with both": (),
}
"""Nodes whose strength is zero in each."""
STRENGTH = {"Apply ControlNet": "strength", "Second LoRA": "strength_model"}
"""The widget that is a node's strength."""


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=["held_out", "validation"], default="validation")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    people = split_people(arguments.split)[: arguments.people + 1]
    with Host(prepare_base(ROOT / "output" / "host"), arguments=("--cache-lru", "100")) as host:
        client = Client(host.url)
        workflow = ApiPrompt.load(WORKFLOW, client.object_info())
        for index, other in tqdm(list(pairwise(people)), unit="person"):
            for name, cosines in likeness(client, workflow, index, other, arguments.seed).items():
                found[name] += cosines
    means = {name: fmean(cosines) for name, cosines in found.items()}
    kept = {name: round(mean / means["LoRA alone"], 3) for name, mean in means.items()}
    rounded = {name: round(mean, 3) for name, mean in means.items()}
    print(json.dumps({"people": arguments.people, "face_similarity": rounded, "kept": kept}, indent=1))


def likeness(client: Client, workflow: ApiPrompt, index: int, other: int, seed: int) -> dict[str, list[float]]:
    """Face similarity of a person's images in the poses of another, by variant."""
    references = [Image.fromarray(image) for image in draw_references(index, np.random.default_rng([seed, index]))]
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    prompt = workflow.copy().set("Your picture", image=client.upload(references[0], f"composed_{index}.png"))
    prompt.set("KSampler", seed=seed).set("Sample LoRA", seed=seed)
    for number, pose in enumerate(CONTROL_SCENES):
        edges = client.upload(Image.fromarray(draw(person(other), pose).image), f"pose_{other}_{number}.png")
        words = caption(Scene(expression=pose.expression, shirt="blue shirt", background="yellow"))
        for name, without in VARIANTS.items():
            variant = prompt.copy().set("Your pose", image=edges).set("Your prompt", text=words)
            for node in without:
                variant.set(node, **{STRENGTH[node]: 0.0})
            variant = variant.only("Save Image")
            images = client.images(client.run(variant.prompt), variant.id("Save Image"))
            found[name] += map(float, face_similarity(images, references))
    return found


if __name__ == "__main__":
    main()
