"""Command line of the miniature: `python -m miniature build [stage …]`, `… serve`, `… workflows`, `… help-pictures`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .build import STAGES, Workshop, build


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m miniature", description="Make the miniature world from nothing.")
    commands = parser.add_subparsers(dest="command", required=True)
    stages = commands.add_parser("build", help="run all stages, or the named ones; interrupted, it continues")
    stages.add_argument("stages", nargs="*", choices=[*STAGES, []], help=f"any of: {', '.join(STAGES)}")
    stages.add_argument("--processes", type=int, default=Workshop().processes, help="one thread each")
    stages.add_argument("--build", type=Path, default=Workshop().build, help="scratch folder")
    stages.add_argument("--weights", type=Path, default=Workshop().weights, help="folder of what ships")
    server = commands.add_parser("serve", help="start ComfyUI with the miniature and open it in the browser")
    server.add_argument("--no-browser", action="store_true", help="only print the address")
    commands.add_parser("workflows", help="write the example workflows and their pictures, by running them")
    commands.add_parser("help-pictures", help="photograph every node in a browser, for the help pages")
    arguments = parser.parse_args()
    if arguments.command == "serve":
        from .serve import serve

        serve(not arguments.no_browser)
        return
    if arguments.command == "workflows":
        workflows()
        return
    if arguments.command == "help-pictures":
        help_pictures()
        return
    shop = Workshop(arguments.build, arguments.weights, arguments.processes)
    build(shop, arguments.stages or list(STAGES))


def workflows() -> None:
    """Write the example workflows with the settings that the shipped checkpoint recommends, and their pictures."""
    from difflora_core.model import DiffLoRA

    from .client import Client
    from .held_out import CHECKPOINT
    from .host import ROOT, Host, prepare_base
    from .thumbnails import make_thumbnails
    from .workflows import write_workflows

    sampling = DiffLoRA.load(CHECKPOINT).config.sampling
    with Host(prepare_base(ROOT / "output" / "host")) as host:
        client = Client(host.url)
        write_workflows(client.object_info(), sampling)
        make_thumbnails(client, client.object_info())


def help_pictures() -> None:
    """Take the pictures of the help pages."""
    from difflora_core.model import DiffLoRA

    from .client import Client
    from .held_out import CHECKPOINT
    from .help_pictures import make_help_pictures
    from .host import ROOT, Host, prepare_base

    with Host(prepare_base(ROOT / "output" / "host")) as host:
        make_help_pictures(Client(host.url), DiffLoRA.load(CHECKPOINT).config.sampling)


if __name__ == "__main__":
    main()
