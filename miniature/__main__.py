"""Command line of the miniature: `python -m miniature COMMAND`.

build [STAGE …]      train everything that ships, or the named stages
serve                ComfyUI with the miniature, in the browser
workflows            write the example workflows and their images
stills               write docs/workflows.md and its images, in a browser
help-images          write the images of the nodes' help pages
node-docs            write docs/nodes.md and locales/en
prepare-dataset      draw the images that training/recipes/miniature/1_dataset.yaml starts from
prepare-evaluation   write held-out people and their teachers for training/evaluation/configs/miniature.yaml
evaluate             compare methods on held-out people, and write a report
choose-baselines     choose the settings of the trained methods among them, on validation people
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from difflora_core.command_line import interruptible, run_command, silence_library_logs

from .paths import DIFFLORA_CHECKPOINT, ROOT

with interruptible():  # it brings torch, which takes seconds
    from .build import STAGES, BuildConfig, build

if TYPE_CHECKING:
    from difflora_core.denoiser.config import SamplingConfig
    from training.comfyui_client import Client


def main() -> int:
    """Parse the command line and run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m miniature", description="Train and run the miniature.")
    commands = parser.add_subparsers(dest="command", required=True)
    stages, default = commands.add_parser("build", help="run all stages, or the named ones"), BuildConfig()
    stages.add_argument("stages", nargs="*", choices=[*STAGES, []], help=f"any of: {', '.join(STAGES)}")
    stages.add_argument("--processes", type=int, default=default.processes, help="of one thread each")
    stages.add_argument("--build", type=Path, default=default.build, help="scratch folder")
    stages.add_argument("--weights", type=Path, default=default.weights, help="folder of what ships")
    stages.set_defaults(run=run_build)
    server = commands.add_parser("serve", help="start ComfyUI with the miniature and open it in the browser")
    server.add_argument("--no-browser", action="store_true", help="only print the address")
    server.set_defaults(run=run_server)
    for name, run, text in (
        ("workflows", workflows, "write the example workflows and their images, by running them"),
        ("stills", stills, "take images of every example workflow in a browser, opened and run, for docs/workflows.md"),
        ("help-images", help_images, "take an image of every node in a browser, for the help pages"),
        ("node-docs", node_docs, "write docs/nodes.md and the English texts from the nodes' schemas"),
        ("prepare-dataset", run_dataset, "draw images for the LoRA dataset pipeline's example"),
        ("prepare-evaluation", run_held_out, "write held-out people and their teachers for the evaluation"),
    ):
        commands.add_parser(name, help=text).set_defaults(run=run)
    compare = commands.add_parser("evaluate", help="compare methods on held-out people, and write a report")
    compare.add_argument("--people", type=int, help="the first so many (default: all)")
    compare.add_argument("--dry-run", action="store_true", help="only say what there is to do")
    compare.add_argument("--keep", action="store_true", help="keep images that were made with other settings")
    compare.add_argument("--workers", type=int, default=default.processes, help="processes that make images")
    compare.set_defaults(run=run_evaluation)
    choice = commands.add_parser("choose-baselines", help="choose settings of trained baselines on validation people")
    choice.add_argument("--people", type=int, default=8, help="the first so many (default: 8)")
    choice.add_argument("--dry-run", action="store_true", help="only say what there is to do")
    choice.add_argument("--workers", type=int, default=default.processes, help="processes that make images")
    choice.set_defaults(run=run_choice)
    return run_command(parser)


def run_build(arguments: argparse.Namespace) -> None:
    """Build what ships."""
    silence_library_logs()
    build(BuildConfig(arguments.build, arguments.weights, arguments.processes), arguments.stages or list(STAGES))


def run_server(arguments: argparse.Namespace) -> None:
    """Open the miniature in the browser."""
    from miniature.demo.serve import serve

    serve(not arguments.no_browser)


def run_dataset(_: argparse.Namespace) -> None:
    """Draw what the dataset pipeline's example starts from."""
    from miniature.personal.example_dataset import prepare_dataset

    silence_library_logs()
    config = BuildConfig()
    prepare_dataset(config.build, config.weights, config.tokenizer)


def run_held_out(_: argparse.Namespace) -> None:
    """Write what the evaluation starts from."""
    from miniature.personal.evaluation import FOLDER, prepare_evaluation

    silence_library_logs()
    prepare_evaluation(FOLDER, BuildConfig().tokenizer)


def run_evaluation(arguments: argparse.Namespace) -> None:
    """Compare methods on held-out people."""
    from miniature.personal.evaluation import evaluate

    silence_library_logs()
    evaluate(BuildConfig().tokenizer, arguments.people, arguments.dry_run, arguments.keep, arguments.workers)


def run_choice(arguments: argparse.Namespace) -> None:
    """Choose the settings of baselines."""
    from miniature.personal.baselines.baseline_choice import choose_baselines

    silence_library_logs()
    choose_baselines(BuildConfig().tokenizer, arguments.people, arguments.dry_run, arguments.workers)


def workflows(_: argparse.Namespace) -> None:
    """Write the example workflows with the settings that the shipped checkpoint recommends, and their images."""
    from miniature.comfyui.workflows import write_workflows
    from miniature.demo.thumbnails import make_thumbnails

    with running_client() as client:
        write_workflows(client.object_info(), shipped_sampling())
        make_thumbnails(client, client.object_info())


def stills(_: argparse.Namespace) -> None:
    """Show the example workflows, as a newcomer sees them."""
    from miniature.demo.serve import example_images
    from miniature.demo.stills import make_stills

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, running_client(Path(folder)) as client:
        example_images(Path(folder) / "input")
        make_stills(client)


def help_images(_: argparse.Namespace) -> None:
    """Take the images of the help pages."""
    from miniature.demo.help_images import make_help_images, write_identity

    write_identity(ROOT / "output" / "host")
    with running_client() as client:
        make_help_images(client, shipped_sampling())


def node_docs(_: argparse.Namespace) -> None:
    """Write the reference of all nodes."""
    from miniature.demo.node_reference import write_node_reference

    with running_client() as client:
        write_node_reference(client.object_info())


@contextmanager
def running_client(base: Path = ROOT / "output" / "host") -> Iterator[Client]:
    """A client of a ComfyUI with a base directory, which runs until the block ends."""
    from miniature.comfyui.host import Host, interrupt_on_signals, prepare_base
    from training.comfyui_client import Client

    interrupt_on_signals()
    with Host(prepare_base(base)) as host:
        yield Client(host.url)


def shipped_sampling() -> SamplingConfig:
    """The sampling settings that the shipped checkpoint recommends."""
    from difflora_core.model import DiffLoRA

    return DiffLoRA.load(DIFFLORA_CHECKPOINT).config.sampling


if __name__ == "__main__":
    sys.exit(main())
