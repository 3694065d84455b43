"""Break the trainers and the dataset pipeline on purpose: kills, full disks, two writers.

    python -m nox -s faults                                   # everything
    python -m nox -s faults -- --kills 5 --part train-lae     # less

Real command lines of tiny instances are run, broken, repeated, and their results compared with those of uninterrupted
runs bit by bit. Any difference makes the exit code 1 and names the seed that repeats it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: results and times are one thread's

from tqdm import tqdm

from tests.faults import full_disk, killed_runs, two_writers
from tests.faults.fault_cases import CASES, World
from tests.faults.forked_runs import EVERYTHING, preload

NAMES = tuple(case.name for case in CASES if case.broken)
PARTS = ("kills", "full-disk", "writers")


def main() -> int:
    """Run the parts that are asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nox -s faults --", description="Break the trainers on purpose.")
    parser.add_argument("--kills", type=int, default=20, help="of each trainer and stage")
    parser.add_argument("--part", action="append", choices=[*PARTS, *NAMES], help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--moments", action="store_true", help="list when each kill came")
    arguments = parser.parse_args()
    if not hasattr(os, "fork"):
        print("faults: skipped, this system has no fork()")
        return 0
    tqdm.monitor_interval = 0  # no thread before a fork
    parts = arguments.part or [*PARTS]
    named = [name for name in NAMES if name in parts] or list(NAMES)
    kinds = [part for part in PARTS if part in parts] or ["kills"]
    with full_disk.small_disk(wanted="full-disk" in kinds) as disk, TemporaryDirectory(prefix="faults-") as folder:
        whole = kinds != ["kills"] and kinds != ["full-disk"]
        needed = [case.imports for case in CASES if case.name in named]
        preload(EVERYTHING if whole else dict.fromkeys(module for imports in needed for module in imports))
        problems: list[str] = []
        world = World(Path(folder))
        if "kills" in kinds:
            problems += _kills(world, named, arguments.kills, arguments.seed, arguments.moments)
        if "full-disk" in kinds:
            problems += _full_disk(Path(folder), disk, named)
        if "writers" in kinds:
            problems += _writers(world)
    for problem in problems:
        print(f"WRONG  {problem}")
    if problems:
        print(f"{len(problems)} problems; to repeat them: --seed {arguments.seed} --kills {arguments.kills}")
    return 1 if problems else 0


def _kills(world: World, names: Sequence[str], kills: int, seed: int, moments: bool) -> list[str]:
    results = []
    print_row(killed_runs.HEADER)
    with tqdm(total=kills * len(names), unit="kill", desc="kills") as progress:
        for case in (case for case in CASES if case.name in names):
            progress.set_postfix_str(case.name)
            results.append(killed_runs.kill_case(world, case, kills, seed, progress.update))
            print_row(results[-1].row())
            for moment in results[-1].moments if moments else ():
                tqdm.write(f"    {moment}")
    done, equal, saving = (sum(getattr(r, name) for r in results) for name in ("kills", "equal", "saving"))
    print(f"{equal} of {done} kills ended bit-equal, {saving} of them while a file was being written")
    return [f"{result.case}: {problem}" for result in results for problem in result.problems]


def _full_disk(folder: Path, disk: Path | None, names: Sequence[str]) -> list[str]:
    world = World(folder / "full", disk)
    problems = []
    print(full_disk.describe(disk))
    print_row(full_disk.HEADER)
    with tqdm(unit="writer", desc="full disk") as progress:
        for case in (case for case in CASES if case.name in names):
            for fault in full_disk.fill_case(world, case, disk):
                print_row(fault.row())
                problems += [f"{case.name}, {fault.writer}: {problem}" for problem in fault.problems]
                progress.update()
    return problems


def _writers(world: World) -> list[str]:
    problems = []
    print_row(two_writers.HEADER)
    for check in tqdm(two_writers.CHECKS, unit="check", desc="two writers"):
        fault = check(world)
        print_row(fault.row())
        problems += [f"{fault.name}: {problem}" for problem in fault.problems]
    return problems


def print_row(cells: Sequence[str]) -> None:
    """Print a row of a table above the progress bar."""
    tqdm.write("  ".join(f"{cell:{34 if not column else 13}s}" for column, cell in enumerate(cells)).rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
