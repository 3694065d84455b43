"""`python -m training pilot`: before thousands of teachers are trained, find their settings on a few people.

Everything is in <output>/pilot of the recipe. The choice is written into the recipe's settings files, unless they are
ones that come with the project, or teachers have been trained by them: then it is only said what to write.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from difflora_core.command_line import silence_library_logs
from training.autoencoder.settings import LAESettings
from training.engine.folder_lock import folder_lock
from training.engine.settings import read_settings
from training.lora_dataset.config import load_config
from training.pilot.find_settings import find_settings
from training.pilot.grid import TeacherSetting
from training.pilot.settings import PilotSettings
from training.pilot.settings_file import change_settings

from .pilot_step import pilot_settings, reason_not_to_write
from .recipe import Recipe, Step, missing_inputs, pilot_step, read_recipe, teacher_step
from .recipe_output import claim_output
from .step_inputs import inputs_of
from .step_records import note_done

T = TypeVar("T", int, float)
TARGETS = {"no": (False,), "yes": (True,), "both": (False, True)}
"""Whether feed-forward layers have a LoRA."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    default = PilotSettings(Path())
    parser.add_argument("recipe", help="the name of a recipe that comes with the project, or a folder")
    parser.add_argument("--people", type=int, help=f"who are trained (default: 0_pilot.yaml's, else {default.people})")
    grid = parser.add_argument_group(
        "grid", "every combination is trained; by default 0_pilot.yaml's, else derived from the dataset's settings"
    )
    grid.add_argument("--learning-rates", type=numbers(float), metavar="A,B,…", help="else 0.1, 0.3 and 1 times")
    grid.add_argument("--steps", type=numbers(int), metavar="A,B,…", help="else a quarter, a half and all")
    grid.add_argument("--feed-forward", choices=TARGETS, help="LoRAs on feed-forward layers, too; else both")
    grid.add_argument("--ranks", type=numbers(int), metavar="A,B,…", help="else once and twice")
    measures = parser.add_argument_group("measures")
    measures.add_argument("--measuring-pack", metavar="NAME", help="a face pack in faces.root for likeness alone")
    measures.add_argument("--clip", type=Path, metavar="FOLDER", help="CLIP of text and vision, transformers' format")
    measures.add_argument("--total-people", type=int, help=f"for whom hours are computed ({default.total_people})")
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--keep-settings", action="store_true", help="only print the choice, write no settings")
    settings.add_argument(
        "--write",
        action="store_true",
        help="write also into a recipe that comes with the project, or of which teachers have been trained",
    )
    parser.set_defaults(run=run)


def numbers(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Return what reads numbers separated by commas, for `add_argument(type=…)`."""

    def read(text: str) -> tuple[T, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"found {text[:40]!r}, expected numbers separated by commas") from None

    return read


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        FileNotFoundError: There is no such recipe, or images or models are missing.
        FolderInUseError: Another process runs a pilot of the recipe.
        PermissionError: The settings are to be written and may not be.
        ValueError: The grid is empty, a value is out of range, there is nobody to train, or the output folder is
            another recipe's.
        RuntimeError: No setting is better than no LoRA.
    """
    silence_library_logs()
    recipe = read_recipe(arguments.recipe)
    settings, own = given_settings(arguments, recipe), pilot_step(recipe)
    config = load_config(settings.dataset)
    grid = settings.grid(config.dreambooth)
    if missing := missing_inputs([teacher_step(recipe)]):
        raise FileNotFoundError(f"the pilot needs what is not there: {'; '.join(missing)}")
    why_not = reason_not_to_write(recipe, arguments.write, arguments.keep_settings)
    files = written_files(recipe)
    start, inputs = time.monotonic(), inputs_of(own) if own else {}
    outcome = f"is only printed: {why_not}" if why_not else f"will be written into {', '.join(map(str, files))}"
    folder = recipe.output / "pilot"
    print(f"{recipe.title}: {len(grid)} settings on {settings.people} people, in {folder}. The choice {outcome}")
    if why_not is None:
        check_writable(files)
        claim_output(recipe)
    with folder_lock(folder):
        measured_with = settings.measuring_pack, settings.clip
        choice = find_settings(
            recipe.title, config, grid, folder, settings.people, settings.total_people, *measured_with
        )
        if why_not is not None:
            print(f"no settings were written: {why_not}")
            return
        print(write_choice(recipe, choice.chosen))
    if own:
        note_done(recipe, own, inputs, time.monotonic() - start)


def given_settings(arguments: argparse.Namespace, recipe: Recipe) -> PilotSettings:
    """Return the settings of the recipe's pilot, with the options in place of its values.

    Raises:
        ValueError: A value is out of range.
    """
    names = ("people", "learning_rates", "steps", "ranks", "measuring_pack", "clip", "total_people")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.feed_forward is not None:
        given["feed_forward"] = TARGETS[arguments.feed_forward]
    return replace(pilot_settings(recipe), **given)


def written_files(recipe: Recipe) -> list[Path]:
    """Return the settings files that say what the teachers are: the dataset's, and `layout` of train-lae."""
    return [teacher_step(recipe).settings, *(step.settings for step in _layout_steps(recipe))]


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
    lines, dataset = [], teacher_step(recipe).settings
    layout = {"rank": setting.rank, "feed_forward": setting.feed_forward}
    for step in _layout_steps(recipe):
        changed = change_settings(step.settings, "layout", layout, lambda path: read_settings(LAESettings, path))
        lines += _changes(step.settings, changed)
        if changed:
            lines.append(f"the LoRAs have another size: check `lae` in {step.settings} and its comments")
    lines += _changes(dataset, change_settings(dataset, "dreambooth", asdict(setting), load_config))
    return "\n".join(lines or ["the recipe has these settings already"])


def _changes(file: Path, changes: Mapping[str, tuple[object, object]]) -> list[str]:
    found = ", ".join(f"{key} {before} -> {after}" for key, (before, after) in changes.items())
    return [f"{file}: {found}"] if changes else []
