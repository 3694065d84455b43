"""What a stage has done: one small JSON file per item, written when the item is complete.

One file per item needs no lock: workers on many machines write at once, and a killed one leaves no partial record.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from difflora_core.files import replacing

Status = Literal["done", "dropped", "failed"]


@dataclass(frozen=True)
class Record:
    """The outcome of one item."""

    item: str
    """Its name, safe as a file name."""
    status: Status = "done"
    """`dropped`: rejected (too few images, a duplicate). `failed`: an error, which the next run tries again."""
    reason: str = ""
    """Why it was dropped or failed."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the stage measured, and the files that it wrote; ready for JSON."""
    seconds: float = 0.0
    """How long it took."""


class Manifest:
    """The records of one stage, in one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write(self, record: Record) -> None:
        """Write a record so that at any moment the file is absent, the old one or the whole new one."""
        with replacing(self._path(record.item)) as partial:
            partial.write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False), encoding="utf-8")

    def read(self, item: str) -> Record | None:
        """Read the record of an item, None if there is none."""
        path = self._path(item)
        return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def settled(self, item: str) -> bool:
        """Return whether an item needs no further work: it is done or dropped."""
        record = self.read(item)
        return record is not None and record.status != "failed"

    def records(self) -> Iterator[Record]:
        """Yield all records by name."""
        for path in sorted(self.folder.glob("*.json")):
            yield Record(**json.loads(path.read_text(encoding="utf-8")))

    def done(self) -> list[str]:
        """Return the names of the items that are done, sorted."""
        return [record.item for record in self.records() if record.status == "done"]

    def _path(self, item: str) -> Path:
        if not item or item != Path(item).name or item.startswith("."):
            raise ValueError(f"{item!r} cannot be an item's name: it has to be a plain file name")
        return self.folder / f"{item}.json"
