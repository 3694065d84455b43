"""Chosen LoRAs of a store, for training on more of them than fit into memory.

Only the wanted bytes are read, by position, directly into the batch's own memory. Mapping the files instead was slower
where they are in the page cache (0.6 of this), and counts the pages of other people's LoRAs as this process's memory.
Rows of a batch are read in the order of the disk.
"""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from io import FileIO
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from .lora_store import LoRAStore
from .shard import Person, read_shard
from .shard_file import file_version, read_header

BYTES_PER_WEIGHT = 4
"""LoRAs are stored in float32."""
MAX_OPEN_FILES = 64
"""Shards of one reader that are open at a time."""


class RowReader:
    """Rows of one split by number, 0 … len − 1, in the order of `LoRAStore.read`.

    It holds a few numbers and a path per shard; people who are added later are seen by a new reader. Close it, or use
    it in a `with` statement.
    """

    def __init__(self, store: LoRAStore, split: str) -> None:
        """Read the headers of the split's files.

        Args:
            store: The store.
            split: train, validation …

        Raises:
            FileNotFoundError: The split holds no LoRAs.
            ValueError: A shard is damaged, or not float32.
        """
        self.numel = store.layout.numel
        self.paths: list[Path] = store.paths(split)
        if not self.paths:
            raise FileNotFoundError(f"{store.folder} holds no LoRAs of split {split!r}: train or import some first.")
        self._begins: list[int] = []  # where the LoRAs of a shard begin, in bytes
        self._versions: list[tuple[int, int, int]] = []
        counts = []
        for path in self.paths:
            self._versions.append(file_version(path.stat()))
            header, begin = read_header(path)
            loras = header.get("loras", {"dtype": "none", "shape": []})
            if loras["dtype"] != "F32" or loras["shape"][1:] != [self.numel]:
                raise ValueError(
                    f"{path} holds LoRAs {loras['dtype']} {loras['shape']}, expected F32 (…, {self.numel})."
                )
            self._begins.append(begin + loras["data_offsets"][0])
            counts.append(loras["shape"][0])
        self.ends = list(accumulate(counts))
        """Rows up to the end of each shard."""
        self._files: OrderedDict[int, FileIO] = OrderedDict()

    def __len__(self) -> int:
        return self.ends[-1]

    def read(self, rows: Sequence[int], out: Tensor | None = None) -> Tensor:
        """Read LoRAs (len(rows), numel) float32 in the order of `rows`.

        Args:
            rows: Their numbers.
            out: A contiguous tensor of that shape to be filled, which saves an allocation.

        Raises:
            IndexError: There is no such row.
            ValueError: `out` has another shape, or a file has been changed since its header was read.
        """
        if out is None:
            out = torch.empty(len(rows), self.numel)
        if out.shape != (len(rows), self.numel) or out.dtype != torch.float32 or not out.is_contiguous():
            expected = f"a contiguous float32 tensor of shape {(len(rows), self.numel)}"
            raise ValueError(f"A batch is read into {expected}, found {out.dtype} {tuple(out.shape)}.")
        if not len(rows):
            return out
        view, length = out.numpy().data.cast("B"), self.numel * BYTES_PER_WEIGHT
        for position in sorted(range(len(rows)), key=rows.__getitem__):
            file, begin = self._find(rows[position])
            file.seek(begin)
            _fill(file, view[position * length : (position + 1) * length])
        return out

    def people(self, rows: Sequence[int]) -> list[Person]:
        """Return whose the rows are, from the headers of their shards."""
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
        shard = bisect_right(self.ends, row)
        return shard, row - (self.ends[shard - 1] if shard else 0)

    def _find(self, row: int) -> tuple[FileIO, int]:
        """The open file that holds a row, and the byte at which it begins."""
        shard, within = self._place(row)
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) >= MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = self._open(shard)
        return self._files[shard], self._begins[shard] + BYTES_PER_WEIGHT * within * self.numel

    def _open(self, shard: int) -> FileIO:
        """Open a shard, whose LoRAs may begin elsewhere if it was written again since its header was read."""
        file = FileIO(self.paths[shard])
        if file_version(os.fstat(file.fileno())) != self._versions[shard]:
            file.close()
            raise ValueError(
                f"{self.paths[shard]} was changed while the store was read: wait until nothing writes to the store, "
                "then run the same command again."
            )
        return file


def _fill(file: FileIO, view: memoryview) -> None:
    """Read until `view` is full: one read returns at most 2 GiB on Linux."""
    while len(view):
        read = file.readinto(view)
        if not read:
            raise ValueError(
                f"{file.name!r} has become shorter by at least {len(view)} bytes: it was changed while it was read."
            )
        view = view[read:]
