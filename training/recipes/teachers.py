"""`python -m training import`: existing LoRAs into a recipe, in place of the stage that trains one of each person.

The images of the people are read where the recipe's dataset settings name them (`collect`), and go through the same
stages as ever; a LoRA belongs to the person of the same name: anna.safetensors to the folder anna/. Then
`python -m training run` goes on with the next step.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from difflora_core.command_line import silence_library_logs
from training.autoencoder.settings import LAESettings
from training.engine.folder_lock import folder_lock
from training.engine.settings import read_settings
from training.lora_dataset.command import add_import_arguments, import_files, report_failures, run_stages
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stage_registry import IMAGE_STAGES
from training.lora_dataset.workspace_lock import workspace_lock

from .recipe import Recipe, Step, missing_inputs, read_recipe, teacher_step
from .recipe_output import claim_output
from .step_files import without_images
from .step_inputs import inputs_of
from .step_records import note_done

MAX_NAMES = 5
"""People that a message lists."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", help="the name of a recipe that comes with the project, or a folder")
    parser.add_argument(
        "--without-images",
        action="store_true",
        help="there are no images of these people: their LoRAs go into a store of their own, for train-lae alone",
    )
    parser.add_argument("--workers", type=int, default=0, help="of the stages; default: one for each GPU, else one")
    parser.add_argument("--keep", action="store_true", help="keep what was made from other inputs than now")
    add_import_arguments(parser)
    parser.set_defaults(run=run, ray=None)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        FileNotFoundError: Images or models are missing; all of them are named.
        FolderInUseError: Another process runs the recipe, or writes to the workspace.
        ValueError: No folder is given, it holds no LoRA, or none of a person with images; or the output folder is
            another recipe's.
        RuntimeError: Items failed.
    """
    silence_library_logs()
    if arguments.folder is None:
        raise ValueError("import needs --from FOLDER, where the LoRA files are")
    recipe = read_recipe(arguments.recipe)
    step = teacher_step(recipe)
    config = load_config(step.settings)
    with folder_lock(recipe.output):
        claim_output(recipe)
        if arguments.without_images:
            import_without_images(arguments, recipe, config)
        else:
            import_with_images(arguments, recipe, step, config)


def import_with_images(arguments: argparse.Namespace, recipe: Recipe, step: Step, config: DatasetConfig) -> None:
    """Preprocess the people's images, import and pack their LoRAs, verify some, and note that the step is done."""
    if missing := missing_inputs([step]):
        raise FileNotFoundError(f"the recipe needs what is not there: {'; '.join(missing)}")
    start, inputs = time.monotonic(), inputs_of(step)
    with workspace_lock(config.workspace):
        failed = run_stages(IMAGE_STAGES, config, arguments)
        failed |= import_files(arguments, config, people_with_images(arguments.folder, config))
        failed |= run_stages(("verify",), config, arguments)
    try:
        report_failures(config, failed)
    except RuntimeError as error:
        raise RuntimeError(
            f"{error}. Until nothing fails the step is not noted as done, and `run` would train LoRAs by DreamBooth: "
            f"replace files that are refused or take them out of {arguments.folder}, then import again"
        ) from error
    note_done(recipe, step, inputs, time.monotonic() - start, imported=True)
    print(f"`python -m training run {arguments.recipe}` goes on from here", flush=True)


def import_without_images(arguments: argparse.Namespace, recipe: Recipe, config: DatasetConfig) -> None:
    """Import and pack LoRAs into the store of those without images, and say which settings have to name it."""
    own = without_images(config)
    with workspace_lock(own.workspace):
        failed = import_files(arguments, own)
    store = own.store
    for step in recipe.steps:
        if step.command == "train-lae" and store not in read_settings(LAESettings, step.settings).stores:
            print(f"add {store} to `stores` of {step.settings}: nothing else can use LoRAs of people without images")
    report_failures(own, failed)


def people_with_images(folder: Path, config: DatasetConfig) -> frozenset[str]:
    """Return who of the folder's LoRAs has preprocessed images; say who has none, or no LoRA.

    Raises:
        ValueError: Nobody has both.
    """
    from training.lora_dataset.stages.import_loras import ImportLoRAs

    files = ImportLoRAs(folder).files(config)
    prepared = set(Manifest(config.stage("preprocess")).done())
    without = sorted(files.keys() - prepared)
    if len(without) == len(files):
        raise ValueError(
            f"none of {len(files)} LoRAs in {folder} is of a person with usable images in "
            f"{config.collect.path}: found LoRAs of {_listed(without)}, images of {_listed(sorted(prepared))}. A LoRA "
            "has the name of its person's folder: anna.safetensors, anna/. Without any images: --without-images"
        )
    if without:
        print(f"left out: {len(without)} LoRAs of people without usable images: {_listed(without)}")
    if others := sorted(prepared - files.keys()):
        print(f"{len(others)} people have images and no LoRA, and serve end-to-end fine-tuning: {_listed(others)}")
    return frozenset(files.keys() & prepared)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
