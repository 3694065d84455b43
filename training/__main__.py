"""Command line of the trainers: `python -m training dataset <stage> --config FILE`."""

import argparse
import sys

from .lora_dataset import command as dataset


def main() -> int:
    """Parse the command line and run; an error that is the user's to mend is one line, not a traceback."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train what DiffLoRA needs.")
    commands = parser.add_subparsers(dest="command", required=True)
    dataset.add_arguments(commands.add_parser("dataset", help="from a folder of faces to a store of LoRAs"))
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
