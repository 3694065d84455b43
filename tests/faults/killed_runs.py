"""Part 1: a command is killed again and again, resumed to its end, and compared with an uninterrupted run.

Half of the kills come at a moment that is uniformly distributed over the time that the uninterrupted run took, the
other half just before one of its changes of files, uniformly distributed over them: so that saving, which takes
milliseconds, is hit too.
"""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

from tests.faults.fault_cases import Case, World
from tests.faults.folder_state import contents, damaged, differences, leftovers
from tests.faults.forked_runs import OnEvent, Run

MAX_KILLS = 4
"""On the way to one result."""
MAX_TRIES = 10
"""Runs for each wanted kill: some end before they are killed."""


@dataclass
class Kills:
    """What a case's kills came to."""

    case: str
    """Name."""
    seconds: float
    """Of the uninterrupted run."""
    kills: int = 0
    """How many there were."""
    equal: int = 0
    """Those on the way to a result that is equal to the uninterrupted run's."""
    saving: int = 0
    """Those while a file was being written: a partial one lay in the folder."""
    leftovers: list[str] = field(default_factory=list)
    """What should have been removed, after resumption."""
    problems: list[str] = field(default_factory=list)
    """All that is wrong."""
    moments: list[str] = field(default_factory=list)
    """When each came."""

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        equal = f"{self.equal} of {self.kills}"
        return self.case, f"{self.seconds:.1f} s", str(self.kills), str(self.saving), equal, str(len(self.leftovers))


HEADER = ("killed", "uninterrupted", "kills", "while saving", "bit-equal", "leftovers")


def kill_case(world: World, case: Case, kills: int, seed: int, on_kill: Callable[[], None]) -> Kills:
    """Kill a case's runs so many times; see the module."""
    (whole, kept), draws = world.reference(case), random.Random(f"{seed} {case.name}")
    expected, result = contents(kept), Kills(case.name, whole.seconds)
    tries = MAX_TRIES * kills
    while result.kills < kills:
        folder, here = world.set_up(case), 0
        while here < min(MAX_KILLS, kills - result.kills) and (tries := tries - 1) > 0:
            run, planned = _killed_run(world, case, whole, draws)
            if not run.killed:
                result.problems += [f"ended with {run.code}: {run.last_line}"] * (run.code != 0)
                break
            here += 1
            on_kill()
            result.moments.append(f"{planned}: {_describe_moment(run, folder)}")
            result.saving += any(folder.rglob(".*.partial"))
            result.problems += [f"{line} after a kill {planned}" for line in damaged(folder)]
        if here:
            _finish(world, case, folder, expected, result, here)
        elif tries <= 0:
            result.problems.append(f"only {result.kills} of {kills} runs lived long enough to be killed")
            break
    return result


def _killed_run(world: World, case: Case, whole: Run, draws: random.Random) -> tuple[Run, str]:
    """Start a run and kill it at a random moment."""
    if draws.random() < 0.5:
        after = draws.uniform(0.0, whole.seconds)
        return world.run(case, kill_after=after), f"after {after:.2f} s"
    number = draws.randrange(len(whole.changes))
    return world.run(case, on_event=kill_at(number)), f"at change {number} of a file"


def kill_at(number: int) -> OnEvent:
    """Return what kills the process group before the change of this number."""

    def on_event(found: int, kind: str, path: str) -> None:
        if found == number:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    return on_event


def _describe_moment(run: Run, folder: Path) -> str:
    """Say how far a run had come: its optimizer's steps, the state on disk, its last change of a file."""
    facts = [f"{run.steps} steps done"] if run.steps else []
    for path in sorted(folder.glob("*/run/*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        facts += [f"{path.name} of step {metadata['step']}"] if "step" in metadata else []
    if run.changes:
        kind, path = run.changes[-1]
        facts.append(f"last {kind} {Path(path).relative_to(folder)}")
    return ", ".join(facts) or "nothing was written yet"


def _finish(world: World, case: Case, folder: Path, expected: dict[str, str], result: Kills, kills: int) -> None:
    """Resume to the end and compare."""
    run = world.run(case)
    wrong = [f"resumed, it ended with {run.code}: {run.last_line}"] if run.code else []
    wrong += differences(contents(folder), expected)
    left = leftovers(folder, world.logs / case.name / "tmp")
    result.kills += kills
    result.equal += 0 if wrong else kills
    result.leftovers += left
    result.problems += [f"{line} (after {kills} kills: {'; '.join(result.moments[-kills:])})" for line in wrong + left]
