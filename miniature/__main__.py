"""Command line of the miniature: `python -m miniature build [stage …]`."""

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
    arguments = parser.parse_args()
    shop = Workshop(arguments.build, arguments.weights, arguments.processes)
    build(shop, arguments.stages or list(STAGES))


if __name__ == "__main__":
    main()
