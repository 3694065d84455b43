"""Compare methods: images of the same people and prompts, measured by the same metrics, in one report.

python -m training evaluate --config FILE
python -m training evaluate --config FILE --method OTHER=FOLDER --method PULID=comfy:WORKFLOW.json
python -m training evaluate --config FILE --workers 4
python -m training evaluate --config FILE --dry-run
"""

import argparse
from dataclasses import replace
from pathlib import Path

from difflora_core.command_line import choose_device, silence_library_logs
from training.engine.folder_lock import folder_lock
from training.engine.settings import read_settings

from .evaluation_run import Evaluation
from .generation.image_workers import worker_devices
from .method_settings import given_method
from .settings import EvaluationSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, see docs/training.md")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME=PLACE",
        help="a further method: images in FOLDER/PERSON/NUMBER_SEED.png, or comfy:WORKFLOW.json for a running ComfyUI",
    )
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--workers", type=int, help="processes that make images; default: one for each GPU, else one")
    parser.add_argument("--dry-run", action="store_true", help="only say how many images and which models are missing")
    parser.add_argument("--keep", action="store_true", help="keep images that were made with other settings")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        FileNotFoundError: Something is not there; it is named.
        FolderInUseError: Another process writes to the output folder.
        ValueError: A setting is out of range, or something can't be used.
        RuntimeError: A method failed.
    """
    silence_library_logs()
    settings = with_methods(read_settings(EvaluationSettings, arguments.config), arguments.method)
    device = str(choose_device(arguments.device))
    if arguments.dry_run:
        for line in Evaluation(settings, device, keep=arguments.keep).describe():
            print(line)
        return
    with folder_lock(settings.output, ", or choose another output folder"):
        workers = worker_devices(arguments.device, arguments.workers)
        print(Evaluation(settings, device, keep=arguments.keep).run(workers))


def with_methods(settings: EvaluationSettings, texts: list[str]) -> EvaluationSettings:
    """Add methods of the command line.

    Raises:
        ValueError: One can't be read, or has the name of another.
    """
    given = [given_method(text) for text in texts]
    names = [*settings.methods, *(name for name, _ in given)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"there are two methods {twice!r}: give one another name")
    return replace(settings, methods={**settings.methods, **dict(given)})
