"""The LoRAs that an autoencoder learns from: one store or several of one layout, in memory or read as they are wanted.

Every LoRA is looked at when it is read: a store that another program wrote, or a damaged file, may hold anything.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from difflora_core.lora.layout import LoRALayout

from .lora_store import LoRAStore, Person
from .rows import BYTES, RowReader

ROWS_AT_ONCE = 16


class LoRAs(Protocol):
    """LoRAs by number; also what `LAE.fit` reads."""

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int]) -> Tensor:
        """LoRAs (len(rows), numel) float32."""
        ...

    def columns(self, start: int, stop: int) -> Tensor:
        """Numbers start…stop of all LoRAs (len, stop − start)."""
        ...


class LoRAsInMemory:
    """A tensor (loras, numel). Raises ValueError on one that is not finite or all zero."""

    def __init__(self, loras: Tensor, people: Sequence[Person] | None = None) -> None:
        names = range(len(loras)) if people is None else people
        for at in range(0, len(loras), ROWS_AT_ONCE):
            check(loras[at : at + ROWS_AT_ONCE], names[at : at + ROWS_AT_ONCE])
        self.loras = loras

    def __len__(self) -> int:
        return len(self.loras)

    def read(self, rows: Sequence[int]) -> Tensor:
        return self.loras[list(rows)]

    def columns(self, start: int, stop: int) -> Tensor:
        return self.loras[:, start:stop]


class LoRAsOnDisk:
    """A split of some stores, one after the other; LoRAs are read anew each time."""

    def __init__(self, stores: Sequence[LoRAStore], split: str) -> None:
        self.stores, self.split = stores, split
        self.readers = [RowReader(store, split) for store in stores if store.paths(split)]
        self._ends = list(accumulate(map(len, self.readers)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, rows: Sequence[int]) -> Tensor:
        places = [bisect_right(self._ends, row) for row in rows]
        loras = torch.empty(len(rows), self.readers[0].width)
        for number, reader in enumerate(self.readers):
            mine = [i for i, place in enumerate(places) if place == number]
            begin = self._ends[number] - len(reader)
            if mine:
                loras[mine] = reader.read([rows[i] - begin for i in mine])
        try:
            check(loras, rows)
        except ValueError:
            check(loras, [self.person(row) for row in rows])
        return loras

    def columns(self, start: int, stop: int) -> Tensor:
        parts = [store.columns(self.split, start, stop) for store in self.stores if store.paths(self.split)]
        columns = torch.cat(parts)
        if not columns.isfinite().all():
            check(columns, [self.person(row) for row in range(len(self))])
        return columns

    def person(self, row: int) -> Person:
        """Whose LoRA a row is."""
        number = bisect_right(self._ends, row)
        reader = self.readers[number]
        return reader.people([row - (self._ends[number] - len(reader))])[0]


def open_stores(folders: Sequence[Path], layout: LoRALayout | None = None) -> list[LoRAStore]:
    """Stores of one layout.

    Raises:
        FileNotFoundError: a folder holds no store.
        ValueError: no folder is named, or a store's layout is another than `layout` or than the first store's.
    """
    if not folders:
        raise ValueError("no store of LoRAs is named: expected at least one folder")
    stores = [LoRAStore.open(folder) for folder in folders]
    expected, of = (layout, "the configuration") if layout else (stores[0].layout, str(folders[0]))
    for store in stores:
        if (difference := expected.difference(store.layout)) is not None:
            raise ValueError(
                f"{store.folder} holds LoRAs of another layout than {of}: {difference}. One autoencoder takes one "
                "layout and rank; bring the LoRAs to it with `python -m training dataset import`."
            )
    people: set[Person] = set()
    for store in stores:
        own = {person for split in store.splits() for shard in store.shards(split) for person in shard.people}
        if len(stores) > 1 and (twice := sorted(people & own, key=str)):
            raise ValueError(f"person {twice[0]} is in two of the stores, last in {store.folder}: name each only once")
        people |= own
    return stores


def people_of(stores: Sequence[LoRAStore], split: str) -> list[Person]:
    """Whose the rows of a split are."""
    return [person for store in stores for shard in store.shards(split) for person in shard.people]


def open_loras(stores: Sequence[LoRAStore], split: str, in_memory_bytes: float) -> LoRAs:
    """A split, in memory if it takes at most so many bytes."""
    loras = LoRAsOnDisk(stores, split)
    if BYTES * len(loras) * stores[0].layout.numel > in_memory_bytes:
        return loras
    whole = torch.empty(len(loras), stores[0].layout.numel)
    for at in range(0, len(loras), ROWS_AT_ONCE):
        rows = range(at, min(at + ROWS_AT_ONCE, len(loras)))
        whole[rows.start : rows.stop] = loras.read(rows)
    return LoRAsInMemory(whole, people_of(stores, split))


def in_batches(loras: LoRAs, size: int = ROWS_AT_ONCE) -> Iterator[Tensor]:
    """All LoRAs in order, `size` at a time."""
    for at in range(0, len(loras), size):
        yield loras.read(range(at, min(at + size, len(loras))))


def check(loras: Tensor, people: Sequence[Person]) -> None:
    """Raise ValueError naming the first person whose LoRA is not finite or changes nothing."""
    if not (finite := loras.isfinite().all(1)).all():
        person = people[int((~finite).nonzero()[0])]
        raise ValueError(f"the LoRA of {person} holds NaN or infinite numbers: take it out of the store")
    if not (something := loras.any(1)).all():
        person = people[int((~something).nonzero()[0])]
        raise ValueError(f"the LoRA of {person} is zero throughout: its teacher was not trained; take it out")
