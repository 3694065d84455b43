"""What a stage is, and how one process runs it: resumable, with a progress bar; a failing item stops no other."""

import errno
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from tqdm import tqdm

from .config import DatasetConfig
from .manifest import Manifest, Record

Worker = Callable[[str], Record]
"""Processes one item: writes its files, returns its record. It does not write the manifest itself."""


class Stage(Protocol):
    """One step of the pipeline."""

    name: str
    """Of the stage, and of its folder in the workspace."""
    gpu: bool
    """Whether a worker uses a GPU."""

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the names of all items, done or not, from the manifests of the stages before."""

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load once what every item needs, and return what processes an item.

        Args:
            config: Of the pipeline.
            device: As torch names it: "cpu", "cuda:0" …
        """

    def finish(self, config: DatasetConfig) -> None:
        """Process all items together, after the last of them; may change records."""


class OutOfSpaceError(RuntimeError):
    """The disk is full: every further item would fail."""


def attempt(worker: Worker, item: str) -> Record:
    """Process one item; an error becomes a `failed` record, so that the others are still processed.

    Raises:
        OutOfSpaceError: The disk is full.
    """
    start = time.monotonic()
    try:
        record = worker(item)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpaceError(
                f"the disk is full ({error}); free some space and run the same command again"
            ) from error
        record = Record(item, "failed", f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever is wrong with one person's images, the others are processed
        record = Record(item, "failed", f"{type(error).__name__}: {error}")
    return replace(record, seconds=time.monotonic() - start)


def unsettled_items(stage: Stage, config: DatasetConfig) -> list[str]:
    """Return the items of a stage that still need work."""
    manifest = Manifest(config.stage(stage.name))
    return [item for item in stage.items(config) if not manifest.settled(item)]


def run_stage(stage: Stage, config: DatasetConfig, device: str = "cpu") -> None:
    """Process a stage's unsettled items in this process."""
    left = unsettled_items(stage, config)
    if left:
        worker = stage.worker(config, device)
        collect_records(stage, config, left, (attempt(worker, item) for item in left))
    stage.finish(config)


def collect_records(stage: Stage, config: DatasetConfig, left: Sequence[str], records: Iterable[Record]) -> None:
    """Write each record when it arrives, and show the progress: items, ETA, items per hour, failures."""
    manifest, failed, start = Manifest(config.stage(stage.name)), 0, time.monotonic()
    with tqdm(total=len(left), desc=stage.name, unit="item") as progress:
        for count, record in enumerate(records, start=1):
            manifest.write(record)
            failed += record.status == "failed"
            hourly = 3600 * count / max(1e-9, time.monotonic() - start)
            progress.set_postfix_str(f"{hourly:.0f}/h" + (f", {failed} failed" if failed else ""))
            progress.update()
