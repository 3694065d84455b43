"""`python -m training dataset`: run stages, print their progress or what they will cost."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from difflora_core.command_line import silence_library_logs

from .cluster import run_on_cluster
from .config import DatasetConfig, load_config
from .manifest import Manifest, Status
from .stage import Stage
from .stage_registry import IMAGE_STAGES, ORDER, SENTENCES, load_stage
from .stage_run import compare, run_stage
from .workspace_lock import workspace_lock

STAGES_BY_WORD = {"all": ORDER, "status": ORDER, "images": IMAGE_STAGES}
"""Words that stand for several stages."""
EXAMPLE = "training/recipes/miniature/1_dataset.yaml"
EXAMPLE_OPTIONS = {"import": " --from loras/", "dreambooth": " --dry-run"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: a parser for each stage, with the options that the stage has."""
    words = parser.add_subparsers(dest="stage", required=True, metavar="stage")
    several = {
        "all": "run all stages in order",
        "images": f"run the stages up to {IMAGE_STAGES[-1]}: images, and no LoRA of anybody",
        "status": "show how far each stage is, what failed, and what is out of date",
        "import": "bring existing LoRA files into the store",
    }
    for word, sentence in (SENTENCES | several).items():
        own = words.add_parser(
            word,
            help=sentence,
            description=f"{sentence[0].upper()}{sentence[1:]}.",
            epilog=f"example: python -m training dataset {word} --config {EXAMPLE}{EXAMPLE_OPTIONS.get(word, '')}",
        )
        own.add_argument(
            "--config", type=Path, required=True, help="a YAML file, see training/recipes/*/1_dataset.yaml"
        )
        if word != "status":
            _add_run_arguments(own, word)
    parser.set_defaults(run=run, dry_run=False, ray=None, workers=0, keep=False)


def _add_run_arguments(parser: argparse.ArgumentParser, word: str) -> None:
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep what was made from other inputs or with other settings than now; it is only listed",
    )
    if word == "import":
        add_import_arguments(parser)
        return
    parser.add_argument("--dry-run", action="store_true", help="only print what a run would do and what it would cost")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="use a Ray cluster (without an address: the one this machine belongs to)",
    )
    parser.add_argument("--workers", type=int, default=0, help="default: one for each GPU, else one")


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of an import of LoRA files."""
    files = parser.add_argument_group("import", "bring existing LoRA files into the same store")
    files.add_argument("--from", type=Path, dest="folder", metavar="FOLDER", help="searched with its subfolders")
    files.add_argument(
        "--approximate", action="store_true", help="approximate LoRAs of higher rank by the store's rank"
    )
    files.add_argument("--leave-out-text-encoder", action="store_true", help="import only what changes the U-Net")
    files.add_argument("--leave-out-other-layers", action="store_true", help="drop layers that the store does not have")
    files.add_argument("--aligned", action="store_true", help="rotate the factors towards the teachers' shared start")


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        RuntimeError: Items failed, or another process writes to the workspace.
    """
    silence_library_logs()
    config = load_config(arguments.config)
    names = STAGES_BY_WORD.get(arguments.stage, (arguments.stage,))
    if arguments.stage == "status":
        for name in names:
            print(status(load_stage(name), config))
    elif arguments.dry_run and arguments.stage != "import":
        from .cost import estimate

        for part in estimate(config, names):
            print(part, flush=True)
    else:
        with workspace_lock(config.workspace):
            if arguments.stage == "import":
                failed = import_files(arguments, config)
            else:
                failed = run_stages(names, config, arguments)
        report_failures(config, failed)


def run_stages(names: Sequence[str], config: DatasetConfig, arguments: argparse.Namespace) -> dict[str, int]:
    """Run stages in order.

    Returns:
        How many items of each failed.

    Raises:
        RuntimeError: All items of a stage failed: there is nothing for those that follow.
    """
    failed = {}
    for name in names:
        failed[name] = run_one_stage(name, config, arguments)
        print(status(load_stage(name), config))
        if failed[name]:
            _check_some_are_done(name, config)
    return failed


def import_files(
    arguments: argparse.Namespace, config: DatasetConfig, people: frozenset[str] | None = None
) -> dict[str, int]:
    """Import a folder of LoRA files, those of `people` or all, and pack them; how many failed in either stage.

    Raises:
        ValueError: No folder is given.
        RuntimeError: No file could be imported.
    """
    from training.lora_dataset.stages.import_loras import ImportLoRAs

    if arguments.folder is None:
        raise ValueError("import needs --from FOLDER, where the LoRA files are")
    names = ("approximate", "leave_out_text_encoder", "leave_out_other_layers", "aligned", "keep")
    options = {name: getattr(arguments, name) for name in names}
    stages, failed = (ImportLoRAs(arguments.folder, **options, people=people), load_stage("pack")), {}
    for stage in stages:
        failed[stage.name] = run_stage(stage, config, keep=arguments.keep)
        print(status(stage, config))
        if failed[stage.name]:
            _check_some_are_done(stage.name, config)
    return failed


def run_one_stage(name: str, config: DatasetConfig, arguments: argparse.Namespace) -> int:
    """Run one stage, in this process, on all GPUs of this machine, or on a cluster; how many items failed."""
    import torch

    stage = load_stage(name)
    gpus = torch.cuda.device_count()
    workers = arguments.workers or (gpus if stage.gpu else 0) or 1
    if arguments.ray is not None or workers > 1:
        return run_on_cluster(stage, config, workers, arguments.ray, arguments.keep)
    return run_stage(stage, config, "cuda" if gpus and stage.gpu else "cpu", arguments.keep)


def _check_some_are_done(name: str, config: DatasetConfig) -> None:
    records = list(Manifest(config.stage(name)).records())
    failed = [record for record in records if record.status == "failed"]
    if failed and not any(record.status == "done" for record in records):
        before = ORDER[ORDER.index(name) - 1] if name in ORDER[1:] else None
        source = f"what the stage `{before}` before it made" if before else "what it reads"
        raise RuntimeError(
            f"the stage `{name}` has done nothing: all {len(failed)} items that it tried failed, first "
            f"{failed[0].item}: {failed[0].reason}. Check its settings and {source}"
        )


def report_failures(config: DatasetConfig, failed: Mapping[str, int]) -> None:
    """Say how many items failed in which stages.

    Raises:
        RuntimeError: Some did.
    """
    if total := sum(failed.values()):
        counts = ", ".join(f"{count} in {name}" for name, count in failed.items() if count)
        raise RuntimeError(
            f"{total} items failed ({counts}); everything else is done. The records in {config.workspace} have the "
            "reasons; the same command tries these items again"
        )


def status(stage: Stage, config: DatasetConfig) -> str:
    """Return how many items of a stage are done, dropped, failed, gone and stale, what differs, the first failure."""
    records = list(Manifest(config.stage(stage.name)).records())
    count = {kind: sum(record.status == kind for record in records) for kind in get_args(Status)}
    if not count["gone"]:
        del count["gone"]
    line = f"{stage.name:11s}" + "  ".join(f"{number} {kind}" for kind, number in count.items())
    if records and stage.name != "import":  # which folder it came from is not known
        line += _stale(stage, config)
    failed = next((record for record in records if record.status == "failed"), None)
    return line + (f"\n    {failed.item}: {failed.reason}" if failed else "")


def _stale(stage: Stage, config: DatasetConfig) -> str:
    """What a run would now make again, or keep although its inputs are not there."""
    try:
        work = compare(stage, config)
    except (OSError, ValueError) as error:
        return f"\n    its items cannot be compared with what they were made from: {error}"
    line = f"  {len(work.stale)} stale" + (f": {work.describe_changes()}" if work.stale else "")
    if work.unknown:
        item, reason = next(iter(work.unknown.items()))
        line += f"\n    {len(work.unknown)} cannot be compared, their inputs are not there: {item}: {reason}"
    if work.gone:
        line += f"\n    {len(work.gone)} are not in the stage before any more, first {work.gone[0].item}"
    return line
