"""`python -m training pilot`: before thousands of teachers are trained, find their settings on a few people.

Everything is in <output>/pilot of the recipe. The choice is written into the recipe's settings files, unless they are
ones that come with the project, or teachers have been trained by them: then it is only said what to write.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from difflora_core.command_line import silence_library_logs
from training.autoencoder.settings import LAESettings
from training.engine.folder_lock import folder_lock
from training.engine.settings import read_settings
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.manifest import Manifest
from training.pilot.find_settings import find_settings
from training.pilot.grid import TeacherSetting, make_grid
from training.pilot.settings_file import change_settings

from .recipe import FOLDER, Recipe, Step, missing_inputs, read_recipe
from .teachers import dataset_step

T = TypeVar("T", int, float)
PEOPLE, TOTAL_PEOPLE = 8, 3000
TARGETS = {"no": (False,), "yes": (True,), "both": (False, True)}
"""Whether feed-forward layers have a LoRA."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", help="the name of a recipe that comes with the project, or a folder")
    parser.add_argument("--people", type=int, default=PEOPLE, help=f"who are trained (default {PEOPLE})")
    grid = parser.add_argument_group("grid", "every combination is trained; defaults are derived from the settings")
    grid.add_argument("--learning-rates", type=numbers(float), metavar="A,B,…", help="default: 0.1, 0.3 and 1 times")
    grid.add_argument("--steps", type=numbers(int), metavar="A,B,…", help="default: a quarter, a half and all")
    grid.add_argument("--feed-forward", choices=TARGETS, default="both", help="LoRAs on feed-forward layers, too")
    grid.add_argument("--ranks", type=numbers(int), metavar="A,B,…", help="default: once and twice")
    measures = parser.add_argument_group("measures")
    measures.add_argument("--measuring-pack", metavar="NAME", help="a face pack in faces.root for likeness alone")
    measures.add_argument("--clip", type=Path, metavar="FOLDER", help="CLIP of text and vision, transformers' format")
    measures.add_argument("--total-people", type=int, default=TOTAL_PEOPLE, help="for whom hours are computed")
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--keep-settings", action="store_true", help="only print the choice, write no settings")
    settings.add_argument(
        "--write",
        action="store_true",
        help="write also into a recipe that comes with the project, or of which teachers have been trained",
    )
    parser.set_defaults(run=run)


def numbers(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return what reads numbers separated by commas, for `add_argument(type=…)`."""

    def read(text: str) -> list[T]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"found {text[:40]!r}, expected numbers separated by commas") from None

    return read


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        FileNotFoundError: There is no such recipe, or images or models are missing.
        FolderInUseError: Another process runs a pilot of the recipe.
        PermissionError: The settings are to be written and may not be.
        ValueError: The grid is empty, a value is out of range, or there is nobody to train.
        RuntimeError: No setting is better than no LoRA.
    """
    recipe = read_recipe(arguments.recipe)
    step = dataset_step(recipe)
    config = load_config(step.settings)
    if min(arguments.people, arguments.total_people) < 1:
        raise ValueError("--people and --total-people have to be at least 1")
    grid = make_grid(
        config.dreambooth, arguments.learning_rates, arguments.steps, TARGETS[arguments.feed_forward], arguments.ranks
    )
    if missing := missing_inputs([step]):
        raise FileNotFoundError(f"the pilot needs what is not there: {'; '.join(missing)}")
    why_not = reason_not_to_write(step.settings, config, arguments.write, arguments.keep_settings)
    files = written_files(recipe)
    outcome = f"is only printed: {why_not}" if why_not else f"will be written into {', '.join(map(str, files))}"
    folder = recipe.output / "pilot"
    print(f"{recipe.title}: {len(grid)} settings on {arguments.people} people, in {folder}. The choice {outcome}")
    if why_not is None:
        check_writable(files)
    silence_library_logs()
    with folder_lock(folder):
        measured_with = arguments.measuring_pack, arguments.clip
        choice = find_settings(
            recipe.title, config, grid, folder, arguments.people, arguments.total_people, *measured_with
        )
        if why_not is None:
            print(write_choice(recipe, choice.chosen))
        else:
            print(f"no settings were written: {why_not}")


def reason_not_to_write(settings: Path, config: DatasetConfig, write: bool, keep: bool) -> str | None:
    """Say why the choice is not written into a dataset's settings file; None if it is."""
    if keep:
        return "--keep-settings"
    if write:
        return None
    if settings.resolve().is_relative_to(FOLDER.resolve()):
        return "the recipe comes with the project; copy the recipe first, or give --write"
    if trained := len(Manifest(config.stage("dreambooth")).done()):
        return f"{trained} groups of teachers have been trained with the settings as they are; give --write to go on"
    return None


def written_files(recipe: Recipe) -> list[Path]:
    """Return the settings files that say what the teachers are: the dataset's, and `layout` of train-lae."""
    return [dataset_step(recipe).settings, *(step.settings for step in _layout_steps(recipe))]


def _layout_steps(recipe: Recipe) -> list[Step]:
    steps = [step for step in recipe.steps if step.command == "train-lae"]
    return [step for step in steps if read_settings(LAESettings, step.settings).layout is not None]


def check_writable(files: Sequence[Path]) -> None:
    """Check before anything is trained that settings can be written.

    Raises:
        PermissionError: A file or its folder may not be written.
    """
    for file in files:
        if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            raise PermissionError(f"{file} may not be written; copy the recipe, or give --keep-settings")


def write_choice(recipe: Recipe, setting: TeacherSetting) -> str:
    """Write a setting into the recipe's settings files; what was changed, a line for each file.

    Raises:
        ValueError: A file could not be read afterwards; it was left as it was.
    """
    lines = []
    dataset = dataset_step(recipe).settings
    lines += _changes(dataset, change_settings(dataset, "dreambooth", asdict(setting), load_config))
    layout = {"rank": setting.rank, "feed_forward": setting.feed_forward}
    for step in _layout_steps(recipe):
        changed = change_settings(step.settings, "layout", layout, lambda path: read_settings(LAESettings, path))
        lines += _changes(step.settings, changed)
        if changed:
            lines.append(f"the LoRAs have another size: check `lae` in {step.settings} and its comments")
    return "\n".join(lines or ["the recipe has these settings already"])


def _changes(file: Path, changes: Mapping[str, tuple[object, object]]) -> list[str]:
    found = ", ".join(f"{key} {before} -> {after}" for key, (before, after) in changes.items())
    return [f"{file}: {found}"] if changes else []
