"""`python -m training run`: all steps of a recipe, each in a process of its own; it goes on where it was.

Which steps are done is noted in <output>/steps.json, with what each was made from. The commands themselves resume
within a step.
"""

import argparse
import datetime
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from training.engine.folder_lock import folder_lock
from training.engine.settings import read_settings
from training.evaluation.settings import EvaluationSettings
from training.lora_dataset.config import load_config
from training.people.dataset_splits import people_of_split

from .held_out_people import check_held_out_people
from .pilot_step import check_may_write, is_left_out
from .planning.time_left import TimeLeft
from .recipe import FILE, TRAINERS, Recipe, Step, missing_inputs, read_recipe
from .recipe_output import claim_output
from .step_inputs import changed_inputs, inputs_of
from .step_records import RECORDS, StepRecord, note_done, read_records
from .trackers import check_trackers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", help="the name of a recipe that comes with the project, or a folder")
    parser.add_argument(
        "--people",
        type=int,
        help="for whom the time that is left is computed (default: those collected, before that 3000)",
    )
    parser.add_argument("--gpu", help="whose figures the time that is left is computed from, as for `plan`")
    parser.add_argument("--status", action="store_true", help="only print which steps are done and which are left")
    parser.add_argument("--keep", action="store_true", help="keep steps whose inputs or settings have changed since")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    recipe = read_recipe(arguments.recipe)
    plan = partial(TimeLeft.of, recipe, arguments.people, arguments.gpu)
    if arguments.status:
        print(describe(recipe, read_records(recipe.output), plan()))
    else:
        run_recipe(recipe, plan, keep=arguments.keep)


def run_recipe(recipe: Recipe, plan: Callable[[], TimeLeft], *, keep: bool = False) -> None:
    """Run the steps that are not done, in order.

    Args:
        recipe: Whose steps.
        plan: Returns the time that is left, by the settings as they are then: a pilot changes them.
        keep: Leave a step as it is whose inputs have changed since, in place of an error.

    Raises:
        FileNotFoundError: Files or folders of the user are missing; all of them are named.
        FolderInUseError: Another process runs the recipe.
        ValueError: The inputs or settings of a step that is done have changed since, or its result is gone, a tracker
            is not installed, the recipe's pilot may not write what it will choose, the output folder is another
            recipe's, the dataset has nobody to evaluate, or somebody is held out in one step alone.
        RuntimeError: A step failed.
    """
    check_may_write(recipe, read_records(recipe.output))
    if missing := missing_inputs(recipe.steps):
        raise FileNotFoundError(f"the recipe needs what is not there: {'; '.join(missing)}")
    check_trackers(recipe.steps)
    with folder_lock(recipe.output):
        claim_output(recipe)
        for number, step in enumerate(recipe.steps):
            records = read_records(recipe.output)
            record = records.get(step.name)
            if is_left_out(recipe, step, records):
                continue
            if record is None or (step.finds_changes and not record.imported):
                print(describe(recipe, records, plan(), number), flush=True)
                run_step(recipe, step)
            elif not keep:
                check_unchanged(step, record)
            if step.is_dataset:
                check_evaluated_people(recipe.steps[number:])
                check_held_out_people(recipe.steps)
        print(describe(recipe, read_records(recipe.output), plan()), flush=True)


def check_evaluated_people(steps: Sequence[Step]) -> None:
    """Check that there are people to evaluate, before networks are trained on all of them.

    Raises:
        ValueError: Nobody is in the split that is evaluated.
    """
    for step in steps:
        if step.command == "evaluate":
            settings = read_settings(EvaluationSettings, step.settings)
            try:
                if settings.dataset is not None:
                    people_of_split(load_config(settings.dataset), settings.split)
            except ValueError as error:
                raise ValueError(f"{step.name}: {error}; or go without the step: delete its line in {FILE}") from error


def run_step(recipe: Recipe, step: Step) -> None:
    """Run one step and note that it is done; a pilot notes it itself, when it has written its choice.

    Raises:
        RuntimeError: It failed.
    """
    start = time.monotonic()
    command = command_of(step, recipe.gpus)
    inputs = inputs_of(step)
    code = _wait_for(command)
    if code:
        raise RuntimeError(
            f"step {step.name} failed with exit code {code}, see above. Alone it is run by: python "
            f"{' '.join(command[1:])}"
        )
    if step.command != "pilot":
        note_done(recipe, step, inputs, time.monotonic() - start)
    elif step.name not in read_records(recipe.output):
        raise RuntimeError(f"step {step.name} has written no settings, see above")


def command_of(step: Step, gpus: int) -> list[str]:
    """Return the command line of a step; trainers are launched on all GPUs, and a pilot gets the recipe's folder."""
    if step.command == "pilot":
        return [sys.executable, "-m", "training", "pilot", str(step.settings.parent)]
    launcher = ["-m"]
    if gpus > 1 and step.command in TRAINERS:
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(gpus), "-m"]
    return [sys.executable, *launcher, "training", *step.command.split(), "--config", str(step.settings)]


def _wait_for(command: Sequence[str]) -> int:
    """Run a process to its end; Ctrl-C reaches it, too, and it is given the time to end."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def check_unchanged(step: Step, record: StepRecord) -> None:
    """Check that a step that is done has its result still, and would be made from the same now.

    Raises:
        ValueError: It has not or would not; what differs is named, and what can be done.
    """
    if gone := [path for path in step.files.writes if not path.exists()]:
        raise ValueError(
            f"step {step.name} was done on {record.finished}, but {gone[0]} is not there any more. Put it back, or "
            f"delete the step's entry in {RECORDS} to do it again, or go on without it with --keep"
        )
    if changed := changed_inputs(step, record.inputs):
        outputs = ", ".join(str(path.parent if path.suffix == ".safetensors" else path) for path in step.files.writes)
        if record.imported:
            raise ValueError(
                f"LoRAs were imported for step {step.name} on {record.finished}, and since then its settings have "
                "changed. Run `python -m training import` again, or keep what was imported with --keep"
            )
        if step.command == "pilot":
            raise ValueError(
                f"step {step.name} was done on {record.finished}, and since then these have changed: "
                f"{', '.join(changed)}. Run `python -m training pilot {step.settings.parent} --write` to choose again, "
                "or keep its choice with --keep"
            )
        raise ValueError(
            f"step {step.name} was done on {record.finished}, and since then these have changed: {', '.join(changed)}. "
            f"Delete {outputs} and its entry in {RECORDS} to do it again, or keep it with --keep"
        )


def describe(recipe: Recipe, records: Mapping[str, StepRecord], time_left: TimeLeft, running: int | None = None) -> str:
    """Return the recipe's steps in lines: done with its time, running, left or left out; and the time that is left."""
    left_out = {step.name: 0.0 for step in recipe.steps if is_left_out(recipe, step, records)}
    lines = [recipe.title]
    for number, step in enumerate(recipe.steps):
        record = records.get(step.name)
        state = "left"
        if number == running:
            state = "runs now" if record is None else "runs now, for what has changed since"
        elif step.name in left_out:
            state = "left out: there are teachers already"
        elif record is not None:
            state = f"{'imported' if record.imported else 'done'}, {datetime.timedelta(seconds=round(record.seconds))}"
        lines.append(f"  {step.name:32s} {state}")
    seconds = {name: 0.0 if record.imported else record.seconds for name, record in records.items()}
    return "\n".join([*lines, time_left.describe(seconds | left_out)])
