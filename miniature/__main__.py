"""Command line of the miniature: `python -m miniature build [stage …]`, `… serve`, and what writes shipped files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .build import STAGES, Workshop, build


def main() -> None:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m miniature", description="Make the miniature world from nothing.")
    commands = parser.add_subparsers(dest="command", required=True)
    stages = commands.add_parser("build", help="run all stages, or the named ones; interrupted, it continues")
    stages.add_argument("stages", nargs="*", choices=[*STAGES, []], help=f"any of: {', '.join(STAGES)}")
    stages.add_argument("--processes", type=int, default=Workshop().processes, help="one thread each")
    stages.add_argument("--build", type=Path, default=Workshop().build, help="scratch folder")
    stages.add_argument("--weights", type=Path, default=Workshop().weights, help="folder of what ships")
    stages.set_defaults(run=run_build)
    server = commands.add_parser("serve", help="start ComfyUI with the miniature and open it in the browser")
    server.add_argument("--no-browser", action="store_true", help="only print the address")
    server.set_defaults(run=run_server)
    for name, run, what in (
        ("workflows", workflows, "write the example workflows and their pictures, by running them"),
        ("help-pictures", help_pictures, "photograph every node in a browser, for the help pages"),
        ("prepare-dataset", prepare, "draw pictures for the LoRA weight pipeline's example set-up"),
    ):
        commands.add_parser(name, help=what).set_defaults(run=run)
    arguments = parser.parse_args()
    arguments.run(arguments)


def run_build(arguments: argparse.Namespace) -> None:
    """Build what ships."""
    shop = Workshop(arguments.build, arguments.weights, arguments.processes)
    build(shop, arguments.stages or list(STAGES))


def run_server(arguments: argparse.Namespace) -> None:
    """Open the miniature in the browser."""
    from miniature.demo.serve import serve

    serve(not arguments.no_browser)


def prepare(_: argparse.Namespace) -> None:
    """Draw what the pipeline's example set-up starts from."""
    from miniature.personal.photographs import prepare_dataset

    shop = Workshop()
    prepare_dataset(shop.build, shop.weights, shop.tokenizer)


def workflows(_: argparse.Namespace) -> None:
    """Write the example workflows with the settings that the shipped checkpoint recommends, and their pictures."""
    from difflora_core.model import DiffLoRA
    from miniature.comfyui.client import Client
    from miniature.comfyui.host import Host, prepare_base
    from miniature.comfyui.workflows import write_workflows
    from miniature.demo.thumbnails import make_thumbnails
    from miniature.paths import ROOT
    from miniature.personal.held_out import CHECKPOINT

    sampling = DiffLoRA.load(CHECKPOINT).config.sampling
    with Host(prepare_base(ROOT / "output" / "host")) as host:
        client = Client(host.url)
        write_workflows(client.object_info(), sampling)
        make_thumbnails(client, client.object_info())


def help_pictures(_: argparse.Namespace) -> None:
    """Take the pictures of the help pages."""
    from difflora_core.model import DiffLoRA
    from miniature.comfyui.client import Client
    from miniature.comfyui.host import Host, prepare_base
    from miniature.demo.help_pictures import make_help_pictures
    from miniature.paths import ROOT
    from miniature.personal.held_out import CHECKPOINT

    with Host(prepare_base(ROOT / "output" / "host")) as host:
        make_help_pictures(Client(host.url), DiffLoRA.load(CHECKPOINT).config.sampling)


if __name__ == "__main__":
    main()
