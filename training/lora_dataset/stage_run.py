"""Running a stage: what it still has to do, a progress bar, a record for every item.

Items without a record are processed, and those whose fingerprint differs from their record's.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from difflora_core.command_line import progress

from .config import DatasetConfig
from .fingerprints import Fingerprint, differences
from .manifest import Manifest, Record
from .stage import Stage, attempt, stopping_when_full

MAX_DIFFERENCES = 4
"""Differences that a message lists."""


@dataclass
class StageWork:
    """A stage's items against its records."""

    new: dict[str, Fingerprint] = field(default_factory=dict)
    """Items without a record, and those that failed."""
    stale: dict[str, Fingerprint] = field(default_factory=dict)
    """Items that were made from something else."""
    changes: Counter[str] = field(default_factory=Counter)
    """What differs, and for how many items."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Items whose inputs cannot be read any more, with reasons: their records are kept."""
    gone: list[Record] = field(default_factory=list)
    """Records of what is no item any more."""
    returned: list[Record] = field(default_factory=list)
    """Records that were gone, and are current."""

    @property
    def pending(self) -> dict[str, Fingerprint]:
        """All items that are to be processed, unless what is stale is kept."""
        return self.new | self.stale

    def describe_changes(self) -> str:
        """Return what differs, in one line."""
        listed = [f"{change} ({count})" for change, count in self.changes.most_common(MAX_DIFFERENCES)]
        more = len(self.changes) - len(listed)
        return "; ".join(listed) + (f"; and {more} more" if more > 0 else "")


def compare(stage: Stage, config: DatasetConfig) -> StageWork:
    """Compare a stage's items with its records. Writes nothing.

    Raises:
        ValueError: There are no items.
        FileNotFoundError: What the items are made from does not exist.
    """
    work, items, fingerprint = StageWork(), stage.items(config), stage.fingerprints(config)
    records = {record.item: record for record in Manifest(config.stage(stage.name)).records()}
    for item in progress(items, f"{stage.name}: comparing", "item"):  # it reads all inputs
        _compare_item(work, item, records.get(item), fingerprint)
    if stage.lists_all:
        known = set(items)
        work.gone = [record for record in records.values() if record.item not in known and record.status != "gone"]
    return work


def _compare_item(work: StageWork, item: str, record: Record | None, fingerprint: Callable[[str], Fingerprint]) -> None:
    """Add an item to the work."""
    try:
        now = fingerprint(item)
    except (OSError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        if record is None or record.status == "failed":
            work.new[item] = {"inputs that cannot be read": reason}  # the item itself fails with a better message
        else:
            work.unknown[item] = reason
        return
    if record is None or record.status == "failed":
        work.new[item] = now
    elif changed := differences(record.inputs, now):
        work.stale[item] = now
        work.changes.update(changed)
    elif record.status == "gone":
        work.returned.append(record)


def run_stage(stage: Stage, config: DatasetConfig, device: str = "cpu", keep: bool = False) -> int:
    """Process in this process what a stage has not done, or would now do otherwise.

    Args:
        stage: The stage.
        config: Of the pipeline.
        device: As torch names it.
        keep: Keep what would now be done otherwise.

    Returns:
        How many items failed.

    Raises:
        OutOfSpaceError: The disk is full.
    """
    left, failed = begin_work(stage, config, keep), 0
    if left:
        worker = stage.worker(config, device)
        failed = collect_records(stage, config, left, (attempt(worker, item) for item in left))
    with stopping_when_full():
        stage.finish(config)
    return failed


def collect_records(
    stage: Stage, config: DatasetConfig, left: Mapping[str, Fingerprint], records: Iterable[Record]
) -> int:
    """Write each record when it arrives, with its fingerprint; show items, ETA, items per hour, failures.

    Returns:
        How many failed.

    Raises:
        OutOfSpaceError: The disk is full.
    """
    manifest, failed, start = Manifest(config.stage(stage.name)), 0, time.monotonic()
    with tqdm(total=len(left), desc=stage.name, unit="item") as progress:
        for count, record in enumerate(records, start=1):
            with stopping_when_full():
                manifest.write(replace(record, inputs=record.inputs or left[record.item]))
            failed += record.status == "failed"
            hourly = 3600 * count / max(1e-9, time.monotonic() - start)
            progress.set_postfix_str(f"{hourly:.0f}/h" + (f", {failed} failed" if failed else ""))
            progress.update()
    return failed


def begin_work(stage: Stage, config: DatasetConfig, keep: bool) -> Mapping[str, Fingerprint]:
    """Prepare a run of a stage, and say what is made again or kept.

    Args:
        stage: The stage.
        config: Of the pipeline.
        keep: Keep what was made from something else.

    Returns:
        The items to be processed, with their fingerprints.
    """
    stage.begin(config)
    work, manifest = compare(stage, config), Manifest(config.stage(stage.name))
    if work.stale:
        what = "kept, as --keep says, though they" if keep else "made again, because they"
        tqdm.write(f"{stage.name}: {len(work.stale)} items are {what} differ: {work.describe_changes()}")
    if work.unknown:
        item, reason = next(iter(work.unknown.items()))
        tqdm.write(f"{stage.name}: {len(work.unknown)} items are kept, their inputs are not there: {item}: {reason}")
    for record in work.returned:
        manifest.write(replace(record, status="done", reason=""))
    if keep:
        return work.new
    _mark_gone(stage, manifest, work.gone)
    return work.pending


def _mark_gone(stage: Stage, manifest: Manifest, records: Sequence[Record]) -> None:
    """Take what is no item any more out of the stages that follow; what was made of it is kept.

    Records of what failed or was dropped are removed: collect would go on merging the images of a dropped duplicate.
    """
    for record in records:
        if record.status in ("failed", "dropped"):
            manifest.remove(record.item)
        else:
            manifest.write(replace(record, status="gone", reason="the stage before does not have it any more"))
    if records:
        tqdm.write(f"{stage.name}: {len(records)} items are gone from the stage before, first {records[0].item}")
