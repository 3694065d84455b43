"""What a stage is, and how one item is processed: an error stops no other item."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from difflora_core.files import FULL

from .config import DatasetConfig
from .fingerprints import Fingerprint
from .manifest import Manifest, Record

Worker = Callable[[str], Record]
"""Processes one item: writes its files, returns its record. It does not write the manifest itself."""


class Stage(ABC):
    """One step of the pipeline."""

    name: str
    """Of the stage, and of its folder in the workspace."""
    gpu: bool = False
    """Whether a worker uses a GPU."""
    lists_all: bool = True
    """Whether `items` lists every item that should have a record: others are gone."""

    @abstractmethod
    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the names of all items, done or not, from the manifests of the stages before. Writes nothing.

        Raises:
            ValueError: There are none, and which stage should have made them.
        """

    @abstractmethod
    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Return what computes an item's fingerprint: the content that a worker reads, the settings that it uses."""

    @abstractmethod
    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load once what every item needs, and return what processes an item.

        Args:
            config: Of the pipeline.
            device: As torch names it: "cpu", "cuda:0" …
        """

    def begin(self, config: DatasetConfig) -> None:  # noqa: B027 # most stages prepare nothing
        """Prepare a run, before the items are listed; may change records."""

    def finish(self, config: DatasetConfig) -> None:  # noqa: B027 # in most stages items don't depend on each other
        """Process all items together, after the last of them; may change records."""


def done_before(config: DatasetConfig, before: str) -> list[str]:
    """Return the items that the stage before has done.

    Raises:
        ValueError: There are none; the stage is named, and why it has none.
    """
    records = list(Manifest(config.stage(before)).records())
    if done := [record.item for record in records if record.status == "done"]:
        return done
    if not records:
        raise ValueError(f"{config.stage(before)} has nobody yet: run the stage `{before}` first")
    first = next((record for record in records if record.status == "failed"), records[0])
    raise ValueError(
        f"the stage `{before}` before this one has nobody left: none of {len(records)} is done, the first is "
        f"{first.status} ({first.item}: {first.reason or 'no reason is recorded'})"
    )


class OutOfSpaceError(RuntimeError):
    """The disk is full: every further item would fail."""


@contextmanager
def stopping_when_full() -> Iterator[None]:
    """While open, a full disk becomes an error that says what was kept and what to do.

    Raises:
        OutOfSpaceError: The disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OutOfSpaceError(
            f"the disk is full ({error}); all items that have a record are kept: free some space and run the same "
            "command again"
        ) from error


def attempt(worker: Worker, item: str) -> Record:
    """Process one item; an error becomes a `failed` record, so that the others are still processed.

    Raises:
        OutOfSpaceError: The disk is full.
    """
    start = time.monotonic()
    try:
        with stopping_when_full():
            record = worker(item)
    except OutOfSpaceError:
        raise
    except Exception as error:  # whatever is wrong with one person's images, the others are processed
        record = Record(item, "failed", f"{type(error).__name__}: {error}")
    return replace(record, seconds=time.monotonic() - start)
