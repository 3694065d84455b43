"""The command line of `benchmarks.teacher_count`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.teacher_count.curves import TEACHERS
from miniature.paths import BUILD

STEPS = 3000
RUN_DEFAULTS = {"teachers": TEACHERS, "seeds": (0, 1, 2), "steps": STEPS}
"""Of options that say what to train, and choose nothing of what is drawn."""
FIGURE_DEFAULTS = {"people": (4800,), "images": (6,), "lora_penalty": (0.0,)}
"""Of options that say what to train, or which runs are drawn."""


def read_arguments(description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if an option would have no effect.

    Args:
        description: What --help begins with.
        arguments: None: those of the process.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--build", type=Path, default=BUILD, help="scratch folder of the miniature's build")
    parser.add_argument("--teachers", type=int, nargs="+", help=f"default: {_words(TEACHERS)}")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"default: {_words(RUN_DEFAULTS['seeds'])}")
    parser.add_argument("--people", type=int, nargs="+", help=f"default: {_words(FIGURE_DEFAULTS['people'])}")
    parser.add_argument("--images", type=int, nargs="+", help=f"default: {_words(FIGURE_DEFAULTS['images'])}")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--lora-penalty", type=float, nargs="+", help="default: none")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--baselines", action="store_true", help="only measure no LoRA, teachers, shipped checkpoint")
    instead.add_argument("--figure", type=Path, help="only draw the curves of the runs that are finished")
    found = parser.parse_args(arguments)
    given = {name for name in RUN_DEFAULTS | FIGURE_DEFAULTS if getattr(found, name) is not None}
    if found.figure and (ignored := given & RUN_DEFAULTS.keys()):
        parser.error(f"--figure draws all numbers of teachers and steps, and all seeds: leave out {_options(ignored)}")
    if found.baselines and given:
        parser.error(f"--baselines trains nothing: leave out {_options(given)}")
    for name, value in (RUN_DEFAULTS | FIGURE_DEFAULTS).items():
        if name not in given:
            setattr(found, name, value)
    several = [name for name in FIGURE_DEFAULTS if len(getattr(found, name)) > 1]
    if found.figure and several:
        parser.error(f"--figure would draw different trainings as seeds of one: give one value of {_options(several)}")
    return found


def _words(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def _options(names: Sequence[str] | set[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))
