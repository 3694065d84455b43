"""Random rows of a store, for training on more LoRAs than fit into memory.

Only the wanted bytes are read, by position, straight into the batch's own memory. Mapping the files instead was slower
where they are in the page cache (.6 of this), and counts the pages of other people's LoRAs as this process's memory.
Rows of a batch are read in the order of the disk.
"""

import os
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from io import FileIO
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from .lora_store import LoRAStore, Person, read_header, read_shard

BYTES = 4  # of a float32
FROM_DISK = 4e9  # bytes per second: what comes slower does not come from the page cache


class RowReader:
    """Rows of one split by number, 0 … len − 1, in the order of `LoRAStore.read`.

    It holds two numbers and a path per shard; people who are added later are seen by a new reader. Close it, or use it
    in a `with` statement.
    """

    def __init__(
        self, store: LoRAStore, split: str, columns: tuple[int, int] | None = None, open_files: int = 64
    ) -> None:
        """columns: start and stop of the numbers wanted of each LoRA, default all. open_files: at most, at a time.

        Raises:
            FileNotFoundError: the split holds no LoRAs.
            ValueError: columns outside the LoRA, or a shard that is damaged or holds other numbers than float32.
        """
        self.start, stop = columns or (0, store.layout.numel)
        if not 0 <= self.start < stop <= store.layout.numel:
            raise ValueError(f"A LoRA has columns 0 to {store.layout.numel}, found {self.start} to {stop}.")
        self.width, self.numel, self.open_files = stop - self.start, store.layout.numel, max(1, open_files)
        self.paths: list[Path] = store.paths(split)
        if not self.paths:
            raise FileNotFoundError(f"{store.folder} holds no LoRAs of split {split!r}: train or import some first.")
        self._data: list[int] = []  # where the LoRAs of a shard begin, in bytes
        counts = []
        for path in self.paths:
            header, begin = read_header(path)
            loras = header.get("loras", {"dtype": "none", "shape": []})
            if loras["dtype"] != "F32" or loras["shape"][1:] != [self.numel]:
                raise ValueError(
                    f"{path} holds LoRAs {loras['dtype']} {loras['shape']}, expected F32 (…, {self.numel})."
                )
            self._data.append(begin + loras["data_offsets"][0])
            counts.append(loras["shape"][0])
        self._ends = list(accumulate(counts))
        self._files: OrderedDict[int, FileIO] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, rows: Sequence[int], out: Tensor | None = None) -> Tensor:
        """LoRAs (len(rows), columns) float32 in the order of `rows`.

        out: a contiguous tensor of that shape to be filled, which saves the system handing out new memory.

        Raises:
            IndexError: there is no such row.
            ValueError: `out` has another shape, or a file has become shorter.
        """
        if out is None:
            out = torch.empty(len(rows), self.width)
        if out.shape != (len(rows), self.width) or out.dtype != torch.float32 or not out.is_contiguous():
            expected = f"a contiguous float32 tensor of shape {(len(rows), self.width)}"
            raise ValueError(f"A batch is read into {expected}, found {out.dtype} {tuple(out.shape)}.")
        if not len(rows):
            return out
        view, length = out.numpy().data.cast("B"), self.width * BYTES
        for position in sorted(range(len(rows)), key=rows.__getitem__):
            file, begin = self._find(rows[position])
            file.seek(begin)
            _fill(file, view[position * length : (position + 1) * length])
        return out

    def prefetch(self, rows: Sequence[int]) -> None:
        """Tell the system that these rows are wanted next; it may read them in the meantime. Does nothing on Windows
        and macOS.
        """
        if hasattr(os, "posix_fadvise"):
            for row in sorted(rows):
                file, begin = self._find(row)
                os.posix_fadvise(file.fileno(), begin, self.width * BYTES, os.POSIX_FADV_WILLNEED)

    def people(self, rows: Sequence[int]) -> list[Person]:
        """Whose the rows are, from the headers of their shards."""
        places = [self._place(row) for row in rows]
        names = {shard: read_shard(self.paths[shard]).people for shard in {shard for shard, _ in places}}
        return [names[shard][row] for shard, row in places]

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, row: int) -> tuple[int, int]:
        """Shard and row in it."""
        if not 0 <= row < len(self):
            raise IndexError(f"there are rows 0 to {len(self) - 1}, found {row}")
        shard = bisect_right(self._ends, row)
        return shard, row - (self._ends[shard - 1] if shard else 0)

    def _find(self, row: int) -> tuple[FileIO, int]:
        """The open file that holds a row, and the byte at which its wanted columns begin."""
        shard, within = self._place(row)
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) >= self.open_files:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = FileIO(self.paths[shard])
        return self._files[shard], self._data[shard] + BYTES * (within * self.numel + self.start)


def _fill(file: FileIO, view: memoryview) -> None:
    """Read until `view` is full: one read returns at most 2 GiB on Linux."""
    while len(view):
        read = file.readinto(view)
        if not read:
            raise ValueError(
                f"{file.name!r} has become shorter by at least {len(view)} bytes: it was changed meanwhile."
            )
        view = view[read:]


def random_batches(
    reader: RowReader, size: int, generator: torch.Generator, window: int = 0, reuse: bool = False
) -> Iterator[tuple[list[int], Tensor]]:
    """One round through all rows in random order: row numbers and LoRAs (size, columns) of each full batch.

    window: 0 draws from all rows. Else the rows are shuffled only among `window` shards at a time, the shards
    themselves in random order: for disks that turn (or networks) and LoRAs of a few kilobytes, where single reads at
    random places cost more than what they read. reuse: every batch comes in the same memory, so that a batch is gone
    when the next one is asked for.

    Raises:
        ValueError: there are fewer rows than one batch has.
    """
    if not 1 <= size <= len(reader):
        raise ValueError(f"A batch has 1 to {len(reader)} of the {len(reader)} rows, found {size}.")
    order = shuffled(reader, generator, window)
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    memory = torch.empty(size, reader.width) if reuse else None
    size_in_bytes, waited = BYTES * size * reader.width, True
    reader.prefetch(batches[0])
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        if waited:  # what is in the page cache already needs no telling, which costs a tenth of reading it there
            reader.prefetch(following)
        start = time.perf_counter()
        loras = reader.read(batch, memory)
        waited = time.perf_counter() - start > size_in_bytes / FROM_DISK
        yield batch, loras


def shuffled(reader: RowReader, generator: torch.Generator, window: int = 0) -> list[int]:
    """All row numbers in the order of one round; see `random_batches`."""
    if not window:
        return torch.randperm(len(reader), generator=generator).tolist()
    bounds = [0, *reader._ends]
    order: list[int] = []
    for group in torch.randperm(len(reader.paths), generator=generator).split(window):
        rows = torch.cat([torch.arange(bounds[i], bounds[i + 1]) for i in group.tolist()])
        order += rows[torch.randperm(len(rows), generator=generator)].tolist()
    return order
