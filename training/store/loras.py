"""The LoRAs that a network is trained on: one store or several of one layout, in memory or read from disk.

Every LoRA is checked when it is read: a store that another program wrote, or a damaged file, may hold anything.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from difflora_core.command_line import progress
from difflora_core.lora.layout import LoRALayout

from .lora_store import LoRAStore
from .row_reader import BYTES_PER_WEIGHT, RowReader
from .shard import Person

LORAS_PER_READ = 16
"""LoRAs that are read or checked at once where all of a split are gone through."""
HASHED_WEIGHTS = 256
"""Of each LoRA, at either end: a training changes all weights, or those of one factor, and stores are large."""


MAX_SIZE = 100
"""Times the median LoRA's size: a teacher that diverged is larger, and all statistics would be about it."""


class LoRAs(Protocol):
    """LoRAs by number; also what `LAE.fit` reads."""

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int]) -> Tensor:
        """Read LoRAs (len(rows), numel) float32."""

    def columns(self, start: int, stop: int) -> Tensor:
        """Read weights start…stop of all LoRAs (len, stop − start)."""


class LoRAsInMemory:
    """LoRAs in one tensor."""

    def __init__(self, loras: Tensor, people: Sequence[Person] | None = None) -> None:
        """Check the LoRAs.

        Args:
            loras: (loras, numel).
            people: Whose they are, for error messages; None numbers them.

        Raises:
            ValueError: One is not finite or zero throughout.
        """
        names = range(len(loras)) if people is None else people
        for start in range(0, len(loras), LORAS_PER_READ):
            check_loras(loras[start : start + LORAS_PER_READ], names[start : start + LORAS_PER_READ])
        self.loras = loras

    def __len__(self) -> int:
        return len(self.loras)

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return LoRAs (len(rows), numel)."""
        return self.loras[list(rows)]

    def columns(self, start: int, stop: int) -> Tensor:
        """Return weights start…stop of all LoRAs (len, stop − start)."""
        return self.loras[:, start:stop]


class LoRAsOnDisk:
    """A split of several stores, one after the other; LoRAs are read each time."""

    def __init__(self, stores: Sequence[LoRAStore], split: str) -> None:
        self.stores, self.split = stores, split
        self.readers = [RowReader(store, split) for store in stores if store.paths(split)]
        self._ends = list(accumulate(map(len, self.readers)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, rows: Sequence[int]) -> Tensor:
        """Read LoRAs (len(rows), numel) float32.

        Raises:
            ValueError: One is not finite or zero throughout.
        """
        readers = [bisect_right(self._ends, row) for row in rows]
        loras = torch.empty(len(rows), self.readers[0].numel)
        for number, reader in enumerate(self.readers):
            own = [position for position, chosen in enumerate(readers) if chosen == number]
            begin = self._ends[number] - len(reader)
            if own:
                loras[own] = reader.read([rows[position] - begin for position in own])
        try:
            check_loras(loras, rows)
        except ValueError:  # once more, with names that cost a read each
            check_loras(loras, [self.person(row) for row in rows])
        return loras

    def columns(self, start: int, stop: int) -> Tensor:
        """Read weights start…stop of all LoRAs (len, stop − start).

        Raises:
            ValueError: One is not finite.
        """
        columns = torch.cat(
            [store.columns(self.split, start, stop) for store in self.stores if store.paths(self.split)]
        )
        if not columns.sum(1).isfinite().all() and not columns.isfinite().all():
            check_loras(columns, [self.person(row) for row in range(len(self))])
        return columns

    def person(self, row: int) -> Person:
        """Return whose LoRA a row is."""
        number = bisect_right(self._ends, row)
        reader = self.readers[number]
        return reader.people([row - (self._ends[number] - len(reader))])[0]


def open_stores(folders: Sequence[Path], layout: LoRALayout | None = None) -> list[LoRAStore]:
    """Open stores of one layout.

    Args:
        folders: Of the stores.
        layout: That they have to have; None takes the first store's.

    Raises:
        FileNotFoundError: A folder holds no store.
        ValueError: No folder is named, a store has another layout, or a person is in two stores.
    """
    if not folders:
        raise ValueError("no store of LoRAs is named: expected at least one folder")
    stores = [LoRAStore.open(folder) for folder in folders]
    expected, source = (layout, "the configuration") if layout else (stores[0].layout, str(folders[0]))
    for store in stores:
        if (difference := expected.difference(store.layout)) is not None:
            raise ValueError(
                f"{store.folder} holds LoRAs of another layout than {source}: {difference}. One autoencoder takes one "
                "layout and rank; convert the LoRAs with `python -m training dataset import`."
            )
    people: set[Person] = set()
    for store in stores:
        own = {person for split in store.splits() for shard in store.shards(split) for person in shard.people}
        if len(stores) > 1 and (twice := sorted(people & own, key=str)):
            raise ValueError(f"person {twice[0]} is in two of the stores, last in {store.folder}: name each only once")
        people |= own
    return stores


def people_of(stores: Sequence[LoRAStore], split: str) -> list[Person]:
    """Return whose the rows of a split are."""
    return [person for store in stores for shard in store.shards(split) for person in shard.people]


def digest_of_people(people: Sequence[Person]) -> str:
    """Hash the names of people, in order: a run is not resumed with as many other people."""
    return hashlib.sha256("\n".join(map(str, people)).encode()).hexdigest()[:16]


def digest_of_loras(*splits: LoRAs) -> str:
    """Hash some weights of every LoRA, in order: a run is not resumed with LoRAs that were trained again.

    Raises:
        ValueError: One is not finite.
    """
    hashed = hashlib.sha256()
    for loras in splits:
        for columns in _both_ends(loras):
            hashed.update(columns.contiguous().numpy().data)
    return hashed.hexdigest()[:16]


def _both_ends(loras: LoRAs) -> Iterator[Tensor]:
    """Yield the first and the last weights of all LoRAs (len, at most HASHED_WEIGHTS)."""
    if len(loras):
        numel = loras.read([0]).shape[1]
        for start in (0, max(0, numel - HASHED_WEIGHTS)):
            yield loras.columns(start, min(numel, start + HASHED_WEIGHTS))


def open_loras(stores: Sequence[LoRAStore], split: str, in_memory_bytes: float) -> LoRAs:
    """Open a split, in memory if it takes at most so many bytes.

    Raises:
        ValueError: A LoRA is not finite, zero throughout or much larger than the others.
    """
    loras = LoRAsOnDisk(stores, split)
    check_sizes(loras, people_of(stores, split))
    if BYTES_PER_WEIGHT * len(loras) * stores[0].layout.numel > in_memory_bytes:
        return loras
    whole = torch.empty(len(loras), stores[0].layout.numel)
    for rows in progress(_ranges(len(loras)), f"reading LoRAs, {split}", "batch"):
        whole[rows.start : rows.stop] = loras.read(rows)
    return LoRAsInMemory(whole, people_of(stores, split))


def in_batches(loras: LoRAs, title: str = "LoRAs") -> Iterator[Tensor]:
    """Yield all LoRAs in order, `LORAS_PER_READ` at a time; a progress bar has the title."""
    return (loras.read(rows) for rows in progress(_ranges(len(loras)), title, "batch"))


def _ranges(count: int) -> list[range]:
    return [range(start, min(start + LORAS_PER_READ, count)) for start in range(0, count, LORAS_PER_READ)]


class ShownReads:
    """LoRAs for `LAE.fit`, which reads all columns several times, with a progress bar; used in a `with` statement."""

    def __init__(self, loras: LoRAs, title: str) -> None:
        self.loras, self.bar = loras, progress((), title, "weight")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __len__(self) -> int:
        return len(self.loras)

    def columns(self, start: int, stop: int) -> Tensor:
        """Read weights start…stop of all LoRAs (len, stop − start)."""
        found = self.loras.columns(start, stop)
        self.bar.update(stop - start)
        return found


def check_loras(loras: Tensor, people: Sequence[Person]) -> None:
    """Check that LoRAs are finite and change something.

    Raises:
        ValueError: One is not or does not; the message names the first person.
    """
    sums = loras.sum(1)
    if (sums.isfinite() & (sums != 0)).all():
        return  # in a twentieth of the time: only finite weights have a finite sum, only zeros none but zero
    if not (finite := loras.isfinite().all(1)).all():
        person = people[int((~finite).nonzero()[0])]
        raise ValueError(f"the LoRA of {person} holds NaN or infinite weights: remove it from the store")
    if not (nonzero := loras.any(1)).all():
        person = people[int((~nonzero).nonzero()[0])]
        raise ValueError(f"the LoRA of {person} is zero throughout: its teacher was not trained; remove it")


def check_sizes(loras: LoRAs, people: Sequence[Person]) -> None:
    """Check, by some weights of each, that no LoRA is very much larger than the others.

    Raises:
        ValueError: One is; the message names the largest one's person.
    """
    sizes = relative_sizes(torch.cat(list(_both_ends(loras)), 1)) if len(loras) else torch.zeros(1)
    if (largest := sizes.max()) > MAX_SIZE:
        raise ValueError(
            f"the LoRA of {people[int(sizes.argmax())]} is {largest:.3g} times as large as the median one, expected at "
            f"most {MAX_SIZE} times: its training has diverged, or its weights are in another unit. Delete that "
            "person's file in the store, and pack the other people of the file again"
        )


def relative_sizes(weights: Tensor) -> Tensor:
    """Return the root mean square of each row's weights over the median row's; zeros where that is zero."""
    sizes = weights.double().square().mean(1).sqrt()
    median = sizes.median()
    return sizes / median if median > 0 else torch.zeros_like(sizes)
