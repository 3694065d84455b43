"""A recipe's settings, cut to few steps, people and prompts.

Image sizes and batches stay the recipe's, so that times of a step and memory are real.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from training.autoencoder.settings import LAESettings
from training.end_to_end.settings import JointSettings
from training.engine.settings import read_settings
from training.lora_dataset.stages.pack_plan import split_of
from training.recipes.recipe import Recipe

STEPS = 2
"""Of every training of a network and every sampler."""
TEACHER_STEPS = 20
"""Of the teachers: end-to-end fine-tuning refuses teachers that do not help on held-out images."""
IMAGES = 4
"""Of each person, collected and generated."""
VALIDATION, TEST = 0.2, 0.15
"""Shares of the people."""
FILTER = {"min_face": 0, "min_sharpness": 0.0, "min_similarity": -1.0, "max_yaw": 180.0, "max_pitch": 180.0}
"""Drawings do not have to pass for photographs; no image repeats another."""
PROMPTS = """\
clothing: ["a portrait of a {person}, red shirt"]
view: ["a portrait of a {person}, turned left"]
"""
"""Of the evaluation."""


def number_of_people(recipe: Recipe, least: int) -> int:
    """How many people make the recipe's batch of LoRAs full, or of people, with those of validation and test.

    Args:
        recipe: Whose batches.
        least: How many there are at least.
    """
    batch, people = 0, 0
    for step in recipe.steps:
        if step.command == "train-lae":
            batch = max(batch, read_settings(LAESettings, step.settings).training.batch)
        elif step.command == "train-teacher-free":
            batch = max(batch, read_settings(JointSettings, step.settings).training.people)
    splits: list[str] = []
    while splits.count("train") < batch or len(splits) < least or not {"validation", "test"} <= set(splits):
        splits.append(split_of(f"person_{people:05d}", VALIDATION, TEST))
        people += 1
    return people


def change_settings(path: Path, photographs: Path) -> None:
    """Cut a settings file to few steps; the dataset's reads the drawn people and generates images.

    Args:
        path: Of the file.
        photographs: Of the drawn people; prompts, and folders of CLIP and DINO, are beside it.
    """
    yaml = YAML()
    settings = yaml.load(path)
    _cut(settings)
    if "methods" in settings:
        _cut_evaluation(settings, photographs.parent)
    if "dreambooth" in settings:
        generate = settings.setdefault("generate", {})
        generate |= {"enabled": True, "images": IMAGES, "steps": STEPS}
        generate.setdefault("file", "photomaker-v1.bin")
        generate.setdefault("size", settings.get("preprocess", {}).get("size", 1024))
        settings["faces"]["provider"] = "CPU"
        same = {"same_person": 0.9, "same_image": 1.0}
        settings["collect"] = {"source": "people", "path": str(photographs), "min_face": 0, **same}
        settings["filter"] = {**FILTER, "same_image": 1.0, "min_images": IMAGES - 1}
        settings["dreambooth"] |= {"steps": TEACHER_STEPS, "warmup": 0}
        settings["pack"] = {"validation": VALIDATION, "test": TEST}
        settings["verify"] = {**settings.get("verify", {}), "people": 1, "steps": STEPS}
    yaml.dump(settings, path)


def _cut_evaluation(settings: Any, folder: Path) -> None:
    """Cut an evaluation to one person and few prompts; repositories of models become folders."""
    prompts = folder / "prompts.yaml"
    prompts.write_text(PROMPTS, encoding="utf-8")
    settings |= {"max_people": 1, "steps": STEPS, "seeds": [0], "prompts": str(prompts)}
    metrics = {name: found for name, found in settings.get("metrics", {}).items() if name in ("faces", "clip", "dino")}

    def place(name: str) -> str:
        return str(folder / "metrics" / Path(name).name)

    if "clip" in metrics:
        metrics["clip"] = [place(name) for name in metrics["clip"]]
    if "dino" in metrics:
        metrics["dino"] = place(metrics["dino"])
    settings["metrics"] = metrics


def _cut(node: Any) -> None:
    """Cut loops to `STEPS`, evaluated and checked once at the end, anywhere below a node."""
    if not isinstance(node, dict):
        return
    if "loop" in node:
        node["loop"] |= {"steps": STEPS, "warmup": 0}
        node["evaluation"] |= {"interval": STEPS}
    if node.get("diffusion_loss_check"):
        node["diffusion_loss_check"] |= {"every": 1}
    for child in node.values():
        _cut(child)
