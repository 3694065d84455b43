"""Pictures of the example workflows for ComfyUI's Templates, made by really running them on held-out people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .client import Client
from .demo import SCENES
from .drawing import draw
from .graph import Graph
from .people import caption, person, reference_scene, split_people
from .sheet import thumbnail
from .workflows import FOLDER, WORKFLOWS

PICTURES = 4


def make_thumbnails(client: Client, object_info: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Run every workflow, each with other people, and write folder/<name>.jpg."""
    people = iter(split_people("held_out"))
    for name in WORKFLOWS:
        graph = Graph.load(folder / f"{name}.json", object_info)
        loaders = [node for node in graph.prompt.values() if node["class_type"] == "LoadImage"]
        same = next(people)
        references = []
        for number, node in enumerate(loaders):
            who = next(people) if name == "difflora_blend" and number else same
            rng = np.random.default_rng([number, who])
            references.append(Image.fromarray(draw(person(who), reference_scene(rng)).image))
            node["inputs"]["image"] = client.upload(references[-1], f"{name}_{number}.png")
        shown = references if name == "difflora_blend" else references[:1]
        thumbnail(shown, _pictures(client, graph, name)).save(folder / f"{name}.jpg", quality=90)


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
