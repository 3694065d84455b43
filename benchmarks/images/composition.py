"""How much likeness a personal LoRA keeps beside a ControlNet and a second LoRA, in a real ComfyUI.

    python -m benchmarks.images.composition [--people 8] [--split validation] [--seed 1]

Runs workflow 7 for each person with the pose of another drawn person, four times: with DiffLoRA's LoRA alone, with the
ControlNet, with the second LoRA (a blue beanie), and with both. The workflow's own strengths are used.

The recognizer has seen red beanies and no blue ones, and takes drawings of people with a blue one for others. So
likeness is measured a second time with blue turned into red where a beanie may be, and both ways of drawings, too.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
from PIL import Image
from tqdm import tqdm

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host, prepare_base
from miniature.measure.metrics import face_similarity
from miniature.paths import ROOT
from miniature.world.accessories import BEANIES
from miniature.world.drawing import draw, draw_references
from miniature.world.people import person, split_people
from miniature.world.scenes import BEANIE, BLUE_BEANIE, CONTROL_SCENES, Scene, caption
from training.comfyui_client import Client

WORKFLOW = ROOT / "workflows" / "7-ControlNet-and-a-second-LoRA.json"
SECOND_LORA = "Second LoRA"
VARIANTS = {
    "LoRA alone": ("Apply ControlNet", SECOND_LORA),
    "with ControlNet": (SECOND_LORA,),
    "with second LoRA": ("Apply ControlNet",),
    "with both": (),
}
"""Nodes whose strength is zero in each."""
SHIRT, BACKGROUND = "blue shirt", "yellow"
BEANIE_ROWS = 48
"""Pixel rows from the top in which blue is a beanie's; eyes and shirts are below."""
COLUMNS = ("face similarity", "with a red beanie", "kept", "kept with a red beanie")
Likeness = dict[str, list[tuple[float, float]]]
"""Face similarity of each person's images by variant: as they are, and with a red beanie."""
STRENGTH = {"Apply ControlNet": "strength", SECOND_LORA: "strength_model"}
"""The widget that is a node's strength."""


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=["held_out", "validation"], default="validation")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generated: Likeness = defaultdict(list)
    drawn: Likeness = defaultdict(list)
    people = split_people(arguments.split)
    if not 1 <= arguments.people < len(people):  # each has the next one's pose
        parser.error(f"--people {arguments.people}: 1 to {len(people) - 1} of {arguments.split} can be measured")
    people = people[: arguments.people + 1]
    with Host(prepare_base(ROOT / "output" / "host"), arguments=("--cache-lru", "100")) as host:
        client = Client(host.url)
        workflow = ApiPrompt.load(WORKFLOW, client.object_info())
        for index, other in tqdm(list(pairwise(people)), unit="person"):
            references = draw_references(index, np.random.default_rng([arguments.seed, index]))
            made = generate(client, workflow, index, other, references, arguments.seed)
            for images, found in ((made, generated), (drawings(index), drawn)):
                for name, own in images.items():
                    found[name].append(likeness(own, references))
    result = {"generated": kept_likeness(generated), "drawn": kept_likeness(drawn)}
    print(json.dumps({"people": arguments.people} | result, indent=1))


def generate(
    client: Client, workflow: ApiPrompt, index: int, other: int, references: list[np.ndarray], seed: int
) -> dict[str, list[np.ndarray]]:
    """Generate a person's images in the poses of another: uint8 (128, 128, 3), by variant."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
    picture = client.upload(Image.fromarray(references[0]), f"composed_{index}.png")
    prompt = workflow.copy().set("Your picture", image=picture)
    prompt.set("KSampler", seed=seed).set("Sample LoRA", seed=seed)
    for number, pose in enumerate(CONTROL_SCENES):
        edges = client.upload(Image.fromarray(draw(person(other), pose).image), f"pose_{other}_{number}.png")
        scene = Scene(expression=pose.expression, shirt=SHIRT, background=BACKGROUND)
        for name, without in VARIANTS.items():
            words = caption(scene if SECOND_LORA in without else replace(scene, hat=BLUE_BEANIE))
            variant = prompt.copy().set("Your pose", image=edges).set("Your prompt", text=words)
            for node in without:
                variant.set(node, **{STRENGTH[node]: 0.0})
            variant = variant.only("Save Image")
            images = client.images(client.run(variant.prompt), variant.id("Save Image"))
            found[name] += [np.array(image.convert("RGB")) for image in images]
    return found


def drawings(index: int) -> dict[str, list[np.ndarray]]:
    """Draw a person in the same scenes, without a hat, with the red beanie and with the blue one."""
    who, scenes = person(index), [replace(pose, shirt=SHIRT, background=BACKGROUND) for pose in CONTROL_SCENES]
    return {
        "without hat": [draw(who, replace(scene, hat="")).image for scene in scenes],
        "red beanie": [draw(who, replace(scene, hat=BEANIE)).image for scene in scenes],
        "blue beanie": [draw(who, replace(scene, hat=BLUE_BEANIE)).image for scene in scenes],
    }


def likeness(images: list[np.ndarray], references: list[np.ndarray]) -> tuple[float, float]:
    """Mean face similarity of images as they are, and with a blue beanie turned into a red one."""
    red = [with_red_beanie(image) for image in images]
    return float(face_similarity(images, references).mean()), float(face_similarity(red, references).mean())


def with_red_beanie(image: np.ndarray) -> np.ndarray:
    """Give what is blue above the eyes the red beanie's color, as bright as it was."""
    blue = image[..., 2] > 1.5 * image[..., 0].astype(float)
    blue[BEANIE_ROWS:] = False
    brightness = image[..., 2:] / BEANIES[BLUE_BEANIE][2]
    red = (brightness * np.array(BEANIES[BEANIE])).clip(0, 255).astype(np.uint8)
    return np.where(blue[..., None], red, image)


def kept_likeness(found: Likeness) -> dict[str, dict[str, float]]:
    """Mean face similarity both ways by variant, each as a share of the first variant's, too."""
    means = {name: np.mean(rows, axis=0) for name, rows in found.items()}
    first = next(iter(means.values()))
    rows = {name: [*own.round(3).tolist(), *(own / first).round(3).tolist()] for name, own in means.items()}
    return {name: dict(zip(COLUMNS, row, strict=True)) for name, row in rows.items()}


if __name__ == "__main__":
    main()
