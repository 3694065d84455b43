"""Pictures of the example workflows for ComfyUI's Templates, made by really running them on held-out people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniature.comfyui.client import Client
from miniature.comfyui.graph import Graph
from miniature.comfyui.workflows import FOLDER, WORKFLOWS
from miniature.world.drawing import draw
from miniature.world.people import Scene, caption, person, reference_scene, split_people

from .run import SCENES
from .sheet import thumbnail

PICTURES = 4
BEANIE = "wearing a red beanie"
POSES = (
    Scene(expression="laughing", hat=BEANIE, pose="turned left", yaw=-0.33),
    Scene(expression="surprised", hat=BEANIE, gaze="looking right"),
    Scene(expression="smiling", hat=BEANIE, pose="turned right", yaw=0.33),
    Scene(expression="sad", hat=BEANIE, roll=0.12, shift_x=6.0),
)
"""Scenes of the pictures whose edges the ControlNet gets."""


def make_thumbnails(client: Client, object_info: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Run every workflow, each with other people, and write folder/<name>.jpg."""
    people = iter(split_people("held_out"))
    for name in WORKFLOWS:
        graph = Graph.load(folder / f"{name}.json", object_info)
        loaders = [node for node in graph.prompt.values() if node["class_type"] == "LoadImage"]
        same, other = next(people), next(people)
        references = []
        for number, node in enumerate(loaders):
            who = other if number and name in ("difflora_blend", "difflora_controlnet") else same
            rng = np.random.default_rng([number, who])
            scene = POSES[0] if node["_meta"]["title"] == "Pose" else reference_scene(rng)
            references.append(Image.fromarray(draw(person(who), scene).image))
            node["inputs"]["image"] = client.upload(references[-1], f"{name}_{number}.png")
        shown = references if name == "difflora_blend" else references[:1]
        if name == "difflora_controlnet":
            shown, made = references, _posed(client, graph, other)
        else:
            made = _pictures(client, graph, name)
        thumbnail(shown, made).save(folder / f"{name}.jpg", quality=90)


def _pictures(client: Client, graph: Graph, name: str) -> list[Image.Image]:
    if name == "difflora_candidates":
        result = client.run(graph.only("Save Image").prompt)
        return client.pictures(result, graph.id("Save Image"))
    if name == "difflora_save_and_load":
        saved = client.run(graph.only("Save LoRA").prompt).outputs[graph.id("Save LoRA")]["text"][0]
        graph.set("Load LoRA", lora_name=saved.removeprefix("saved ").split(" in ")[0])
    made = []
    for scene in SCENES[:PICTURES]:
        result = client.run(graph.copy().set("Prompt", text=caption(scene)).only("Save Image").prompt)
        made += client.pictures(result, graph.id("Save Image"))
    return made


def _posed(client: Client, graph: Graph, who: int) -> list[Image.Image]:
    """One portrait for each of the poses, which somebody else takes."""
    made = []
    for number, pose in enumerate(POSES):
        graph.set("Pose", image=client.upload(Image.fromarray(draw(person(who), pose).image), f"pose_{number}.png"))
        words = caption(Scene(expression=pose.expression, shirt="blue shirt", background="yellow"))
        result = client.run(graph.copy().set("Prompt", text=words).only("Save Image").prompt)
        made += client.pictures(result, graph.id("Save Image"))
    return made
