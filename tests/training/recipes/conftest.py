"""A recipe to be run, and what stands for the processes of its steps."""

import shutil
from pathlib import Path

import pytest

from training.recipes import run
from training.recipes.recipe import FOLDER, Recipe, read_recipe

from .step_commands import Commands


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A copy of a shipped recipe, with everything that the user has to bring."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "a" / "b").mkdir(parents=True)
    copied = shutil.copytree(FOLDER / "sdxl-24gb", tmp_path / "a" / "b" / "mine")
    recipe = read_recipe(str(copied))
    for step in recipe.steps:
        results = [path for path in step.files.given.values() if path.is_relative_to(recipe.output)]
        for path in {*step.files.own.values(), *step.files.given.values()} - set(results):
            if not path.exists():
                path.mkdir(parents=True)
    return recipe


@pytest.fixture
def commands(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands(recipe)
    monkeypatch.setattr(run, "_wait_for", commands)
    return commands
