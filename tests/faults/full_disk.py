"""Part 2: the disk is full at the moment when a file is written, for every kind of file that a command writes."""

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.fault_cases import Case, World
from tests.faults.folder_state import contents, damaged, differences, leftovers
from tests.faults.forked_runs import OnEvent

DISK_MB = 96
BALLAST = "ballast"
PARTIAL = re.compile(r"\.(.+)\.\w+\.[0-9a-f]{16}\.partial")
NUMBERED = re.compile(r"(?<=tfevents\.).*|[0-9a-f]{32}|\.?(person_\d+|twin)(\.partial)?|(?<![a-z])\d+")
CHUNK = 1 << 20
HEADER = ("full disk", "message", "old file", "resumed", "leftovers")


@dataclass
class FullDisk:
    """What came of a full disk at one writer."""

    writer: str
    """Case and kind of file."""
    message: str = ""
    """The last line of what the command said."""
    old: str = "none"
    """Whether the file before it is whole; none where there was none."""
    resumed: bool = False
    """Whether the run after it is bit-equal."""
    leftovers: list[str] = field(default_factory=list)
    """Partial files of after the failure."""
    problems: list[str] = field(default_factory=list)
    """All that is wrong."""

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        clear = "clear" if is_clear(self.message) else "UNCLEAR"
        return self.writer, clear, self.old, "bit-equal" if self.resumed else "DIFFERS", str(len(self.leftovers))


def is_clear(line: str) -> bool:
    """Whether a message says what is full, what was kept and what to do."""
    full = re.search(r"disk is full|No space left|File too large", line)
    return bool(full and re.search(r"kept|is whole|nothing is left|no earlier", line) and "free some space" in line)


@contextmanager
def small_disk(wanted: bool) -> Iterator[Path | None]:
    """Mount a small file system in memory; None where that is not allowed."""
    if not wanted:
        yield None
        return
    with TemporaryDirectory(prefix="faults-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder]
        try:
            mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except OSError:
            mounted = False
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=True)


def describe(disk: Path | None) -> str:
    """Say what stands for the full disk."""
    if disk is not None:
        return f"full disk: a file system of {DISK_MB} MB in memory, filled before each kind of file is written"
    return (
        "full disk: no file system can be mounted here (that takes root, or `unshare -Urm` before the command); a "
        "limit of a file's size stands for it"
    )


def writers(changes: tuple[tuple[str, str], ...], folder: Path) -> dict[str, int]:
    """Return, by kind of file, the number of the change at which the disk is filled.

    Of files that are replaced it is the last one, when there is a file before it; of files that are written in place
    the first, since the rest of a block takes a few lines more.
    """
    found: dict[str, int] = {}
    for number, (kind, path) in enumerate(changes):
        if kind == "write":
            relative = Path(path).relative_to(folder)
            partial = PARTIAL.fullmatch(relative.name)
            name = relative.with_name(partial[1] if partial else relative.name).as_posix()
            name = NUMBERED.sub("*", name)
            found[name] = number if partial else found.get(name, number)
    return found


def fill_case(world: World, case: Case, disk: Path | None) -> Iterator[FullDisk]:
    """Run a case once for every kind of file that it writes, with the disk full from then on."""
    whole, kept = world.reference(case)
    expected = contents(kept)
    for name, number in writers(whole.changes, world.place / case.name).items():
        fault, folder = FullDisk(f"{case.name}: {name}"), world.set_up(case)
        target = Path(whole.changes[number][1])
        real = target.with_name(match[1]) if (match := PARTIAL.fullmatch(target.name)) else target
        run = world.run(case, on_event=fill_at(number, disk))
        if disk is not None:
            (disk / BALLAST).unlink(missing_ok=True)
        fault.message = run.last_line
        _check_failure(fault, run.code, run.output, folder, real)
        again = world.run(case)
        wrong = [f"after it was freed, the run ended with {again.code}: {again.last_line}"] if again.code else []
        wrong += differences(contents(folder), expected)
        fault.resumed = not wrong
        fault.problems += wrong + leftovers(folder, world.logs / case.name / "tmp")
        yield fault


def _check_failure(fault: FullDisk, code: int, output: str, folder: Path, real: Path) -> None:
    """Check what a run that met the full disk said and left."""
    if code == 0:
        fault.problems.append("the exit code is 0")
    if "Traceback" in output:
        fault.problems.append("a traceback was printed")
    if not is_clear(fault.message):
        fault.problems.append(f"it said: {fault.message}")
    if real.name not in fault.message and not real.name.startswith("events."):
        fault.problems.append(f"the message does not name {real.name}: {fault.message}")
    wrong = damaged(folder)
    if real.exists():
        fault.old = "DAMAGED" if any(line.startswith(str(real.relative_to(folder))) for line in wrong) else "whole"
    fault.leftovers = leftovers(folder)
    fault.problems += wrong + [f"{line} after the failure" for line in fault.leftovers]


def fill_at(number: int, disk: Path | None) -> OnEvent:
    """Return what fills the disk before the change of this number, or forbids files to grow."""

    def on_event(found: int, kind: str, path: str) -> None:
        if found != number:
            return
        if disk is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return
        ballast = os.open(disk / BALLAST, os.O_WRONLY | os.O_CREAT)
        size = CHUNK
        while size:
            try:
                os.write(ballast, bytes(size))
            except OSError:
                size //= 2
        os.close(ballast)

    return on_event
