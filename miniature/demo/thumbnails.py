"""Images of the example workflows for ComfyUI's Templates, made by running them on held-out people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.client import Client
from miniature.comfyui.workflows import FOLDER, WORKFLOWS
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import CONTROL_SCENES, DEMO_SCENES, Scene, caption, reference_scene

from .contact_sheet import thumbnail

IMAGES = 4


def make_thumbnails(client: Client, object_info: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Run every workflow, each with other people, and write folder/<name>.jpg."""
    people = iter(split_people("held_out"))
    for name in WORKFLOWS:
        prompt = ApiPrompt.load(folder / f"{name}.json", object_info)
        loaders = [node for node in prompt.prompt.values() if node["class_type"] == "LoadImage"]
        same, other = next(people), next(people)
        references = []
        for number, node in enumerate(loaders):
            who = other if number and name in ("difflora_blend", "difflora_controlnet") else same
            rng = np.random.default_rng([number, who])
            scene = CONTROL_SCENES[0] if node["_meta"]["title"] == "Pose" else reference_scene(rng)
            references.append(Image.fromarray(draw(person(who), scene).image))
            node["inputs"]["image"] = client.upload(references[-1], f"{name}_{number}.png")
        shown = references if name == "difflora_blend" else references[:1]
        if name == "difflora_controlnet":
            shown, made = references, _generate_with_control(client, prompt, other)
        else:
            made = _generate(client, prompt, name)
        thumbnail(shown, made).save(folder / f"{name}.jpg", quality=90)


def _generate(client: Client, prompt: ApiPrompt, name: str) -> list[Image.Image]:
    if name == "difflora_candidates":
        result = client.run(prompt.only("Save Image").prompt)
        return client.images(result, prompt.id("Save Image"))
    if name == "difflora_save_and_load":
        saved = client.run(prompt.only("Save LoRA").prompt).outputs[prompt.id("Save LoRA")]["text"][0]
        prompt.set("Load LoRA", lora_name=saved.removeprefix("saved ").split(" in ")[0])
    made = []
    for scene in DEMO_SCENES[:IMAGES]:
        result = client.run(prompt.copy().set("Prompt", text=caption(scene)).only("Save Image").prompt)
        made += client.images(result, prompt.id("Save Image"))
    return made


def _generate_with_control(client: Client, prompt: ApiPrompt, who: int) -> list[Image.Image]:
    """One portrait for each of the poses, of which another person is drawn."""
    made = []
    for number, pose in enumerate(CONTROL_SCENES):
        prompt.set("Pose", image=client.upload(Image.fromarray(draw(person(who), pose).image), f"pose_{number}.png"))
        words = caption(Scene(expression=pose.expression, shirt="blue shirt", background="yellow"))
        result = client.run(prompt.copy().set("Prompt", text=words).only("Save Image").prompt)
        made += client.images(result, prompt.id("Save Image"))
    return made
