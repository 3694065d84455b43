"""`python -m training dataset`: run stages, print their progress or what they will cost."""

import argparse
from pathlib import Path

from difflora_core.library_logs import silence_library_logs

from .cluster import run_on_cluster
from .config import DatasetConfig, load_config
from .manifest import Manifest
from .stage import run_stage
from .stage_registry import ORDER, load_stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "stage",
        choices=[*ORDER, "all", "status", "import"],
        help="a stage, all stages in order, the progress of all stages, or the import of LoRA files",
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, see training/configs/")
    parser.add_argument("--dry-run", action="store_true", help="only print what a run would do and what it would cost")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="use a Ray cluster (without an address: the one this machine belongs to)",
    )
    parser.add_argument("--workers", type=int, default=0, help="default: one for each GPU, else one")
    files = parser.add_argument_group("import", "bring existing LoRA files into the same store")
    files.add_argument("--from", type=Path, dest="folder", metavar="FOLDER", help="searched with its subfolders")
    files.add_argument(
        "--approximate", action="store_true", help="approximate LoRAs of higher rank by the store's rank"
    )
    files.add_argument("--leave-out-text-encoder", action="store_true", help="import only what changes the U-Net")
    files.add_argument("--leave-out-other-layers", action="store_true", help="drop layers that the store does not have")
    files.add_argument("--aligned", action="store_true", help="rotate the factors towards the teachers' shared start")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    silence_library_logs()
    config = load_config(arguments.config)
    names = ORDER if arguments.stage in ("all", "status") else (arguments.stage,)
    if arguments.stage == "import":
        import_files(arguments, config)
    elif arguments.stage == "status":
        for name in names:
            print(status(name, config))
    elif arguments.dry_run:
        from .cost import estimate

        print(estimate(config, names))
    else:
        for name in names:
            run_one_stage(name, config, arguments.ray, arguments.workers)
            print(status(name, config))


def import_files(arguments: argparse.Namespace, config: DatasetConfig) -> None:
    """Import a folder of LoRA files and pack them."""
    from training.lora_dataset.stages.import_loras import ImportLoRAs

    if arguments.folder is None:
        raise ValueError("import needs --from FOLDER, where the LoRA files are")
    names = ("approximate", "leave_out_text_encoder", "leave_out_other_layers", "aligned")
    run_stage(ImportLoRAs(arguments.folder, **{name: getattr(arguments, name) for name in names}), config)
    run_stage(load_stage("pack"), config)
    for name in ("import", "pack"):
        print(status(name, config))


def run_one_stage(name: str, config: DatasetConfig, address: str | None, workers: int) -> None:
    """Run one stage: in this process, on all GPUs of this machine, or on a cluster."""
    import torch

    stage = load_stage(name)
    gpus = torch.cuda.device_count()
    workers = workers or (gpus if stage.gpu else 0) or 1
    if address is not None or workers > 1:
        run_on_cluster(stage, config, workers, address)
    else:
        run_stage(stage, config, "cuda" if gpus and stage.gpu else "cpu")


def status(name: str, config: DatasetConfig) -> str:
    """Return how many items of a stage are done, dropped and failed, and the first failure."""
    records = list(Manifest(config.stage(name)).records())
    count = {kind: sum(record.status == kind for record in records) for kind in ("done", "dropped", "failed")}
    line = f"{name:11s}" + "  ".join(f"{number} {kind}" for kind, number in count.items())
    failed = next((record for record in records if record.status == "failed"), None)
    return line + (f"\n    {failed.item}: {failed.reason}" if failed else "")
