"""What a stage has done: one small JSON file per item, written when the item is complete.

One file per item needs no lock: workers on many machines write at once, and a killed one leaves no partial record.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from difflora_core.files import replacing

Status = Literal["done", "dropped", "failed", "gone"]


@dataclass(frozen=True)
class Record:
    """The outcome of one item."""

    item: str
    """Its name, safe as a file name."""
    status: Status = "done"
    """`dropped`: rejected (too few images, a duplicate). `failed`: an error, which the next run tries again. `gone`: it
    was done, but the stage before does not have the item any more; what was made of it is kept."""
    reason: str = ""
    """Why it was dropped or failed."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the stage measured, and the files that it wrote; ready for JSON."""
    seconds: float = 0.0
    """How long it took."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Its fingerprint: what it was made from. Where a worker leaves it empty, that of before the item was processed."""


class Manifest:
    """The records of one stage, in one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write(self, record: Record) -> None:
        """Write a record so that at any moment the file is absent, the old one or the whole new one.

        Raises:
            OSError: The disk is full, or the system refuses for another reason; the file is named.
        """
        with replacing(self._path(record.item)) as partial:
            text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
            # File names that are not Unicode have surrogates, which become JSON's own escapes
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")

    def remove(self, item: str) -> None:
        """Remove the record of an item, if there is one."""
        self._path(item).unlink(missing_ok=True)

    def read(self, item: str) -> Record | None:
        """Read the record of an item, None if there is none. A damaged one is returned as failed, and named."""
        path = self._path(item)
        return _read_record(path) if path.exists() else None

    def records(self) -> Iterator[Record]:
        """Yield all records by name. Damaged ones are yielded as failed, and named."""
        for path in sorted(self.folder.glob("*.json")):
            yield _read_record(path)

    def done(self) -> list[str]:
        """Return the names of the items that are done, sorted."""
        return [record.item for record in self.records() if record.status == "done"]

    def _path(self, item: str) -> Path:
        if not item or item != Path(item).name or item.startswith("."):
            raise ValueError(f"{item!r} cannot be an item's name: it has to be a plain file name")
        return self.folder / f"{item}.json"


def _read_record(path: Path) -> Record:
    """Read a record; what is no record becomes a failed one, whose item is processed again."""
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        values = json.loads(path.read_text(encoding="utf-8"))
        _check_record(values, path.stem)
    except (ValueError, RecursionError) as error:
        what = "its JSON is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return Record(path.stem, "failed", f"the record {path} is damaged: {what}")
    return Record(**values)


def _check_record(values: Any, item: str) -> None:
    """Check what a record file holds.

    Raises:
        ValueError: It is no record of this item.
    """
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, expected a record")
    if unknown := values.keys() - {entry.name for entry in fields(Record)}:
        raise ValueError(f"it has {min(unknown)!r}, which no record has")
    if values.get("item") != item:
        raise ValueError(f"it is of item {values.get('item')!r}, expected {item!r}")
    if values.get("status") not in get_args(Status):
        raise ValueError(f"its status is {values.get('status')!r}, expected one of {', '.join(get_args(Status))}")
    for name, kind in (("reason", str), ("facts", dict), ("inputs", dict), ("seconds", (int, float))):
        if name in values and not isinstance(values[name], kind):
            raise ValueError(f"its {name} is {values[name]!r}")
