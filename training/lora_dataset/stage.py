"""What a stage is, and how it is run on one machine: resumable, with a progress bar, one failing item stops nobody."""

import errno
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from tqdm import tqdm

from .config import DatasetConfig
from .manifest import Manifest, Record

Worker = Callable[[str], Record]
"""Does one item: writes its files, returns its record. It doesn't write the manifest itself."""


class Stage(Protocol):
    """One step of the pipeline."""

    name: str
    gpu: bool
    """Whether a worker wants a GPU."""

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Names of everything to be done, from the manifests of the stages before; done or not."""

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load what an item needs, once, and return what does an item. device: "cpu", "cuda:0" …"""

    def finish(self, config: DatasetConfig) -> None:
        """What looks at all items together, after the last of them; may change records."""


class OutOfSpaceError(RuntimeError):
    """The disk is full: going on would fail for every item."""


def attempt(worker: Worker, item: str) -> Record:
    """Do one item; an error becomes a `failed` record, so that the rest goes on.

    Raises:
        OutOfSpaceError: the disk is full.
    """
    start = time.monotonic()
    try:
        record = worker(item)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpaceError(f"the disk is full ({error}); make room and run the same command again") from error
        record = Record(item, "failed", f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever one person's pictures do, the others go on
        record = Record(item, "failed", f"{type(error).__name__}: {error}")
    return replace(record, seconds=time.monotonic() - start)


def waiting(stage: Stage, config: DatasetConfig) -> list[str]:
    """Items of a stage that still need work."""
    manifest = Manifest(config.stage(stage.name))
    return [item for item in stage.items(config) if not manifest.settled(item)]


def run_stage(stage: Stage, config: DatasetConfig, device: str = "cpu") -> None:
    """Do what is left of a stage in this process."""
    left = waiting(stage, config)
    if left:
        worker = stage.worker(config, device)
        collect_records(stage, config, left, (attempt(worker, item) for item in left))
    stage.finish(config)


def collect_records(stage: Stage, config: DatasetConfig, left: Sequence[str], records: Iterable[Record]) -> None:
    """Write each record as it comes, and show how it goes: items, ETA, items per hour, failures."""
    manifest, failed, start = Manifest(config.stage(stage.name)), 0, time.monotonic()
    with tqdm(total=len(left), desc=stage.name, unit="item") as progress:
        for count, record in enumerate(records, start=1):
            manifest.write(record)
            failed += record.status == "failed"
            hourly = 3600 * count / max(1e-9, time.monotonic() - start)
            progress.set_postfix_str(f"{hourly:.0f}/h" + (f", {failed} failed" if failed else ""))
            progress.update()
