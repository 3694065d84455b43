"""All LoRAs of a store in random order, batch by batch."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from .row_reader import BYTES_PER_WEIGHT, RowReader

PAGE_CACHE_SPEED = 4e9
"""Bytes per second: what is read more slowly does not come from the page cache."""


def random_batches(
    reader: RowReader, size: int, generator: torch.Generator, window: int = 0, reuse: bool = False
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield row numbers and LoRAs (size, columns) of each full batch in one pass through all rows.

    Args:
        reader: Of the rows.
        size: Of a batch.
        generator: Of the order.
        window: 0 draws from all rows. Otherwise rows are shuffled only among `window` shards at a time, the shards
            themselves in random order: for hard disks (or networks) and LoRAs of a few kilobytes, where single reads at
            random positions cost more than what they read.
        reuse: Every batch is in the same memory, so that a batch is lost when the next one is read.

    Raises:
        ValueError: There are fewer rows than one batch has.
    """
    if not 1 <= size <= len(reader):
        raise ValueError(f"A batch has 1 to {len(reader)} of the {len(reader)} rows, found {size}.")
    order = shuffled(reader, generator, window)
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    memory = torch.empty(size, reader.width) if reuse else None
    batch_bytes, from_disk = BYTES_PER_WEIGHT * size * reader.width, True
    reader.prefetch(batches[0])
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        if from_disk:  # what is in the page cache needs no prefetching, which costs a tenth of reading it there
            reader.prefetch(following)
        start = time.perf_counter()
        loras = reader.read(batch, memory)
        from_disk = time.perf_counter() - start > batch_bytes / PAGE_CACHE_SPEED
        yield batch, loras


def shuffled(reader: RowReader, generator: torch.Generator, window: int = 0) -> list[int]:
    """Return all row numbers in the order of one pass; see `random_batches`."""
    if not window:
        return torch.randperm(len(reader), generator=generator).tolist()
    bounds = [0, *reader.ends]
    order: list[int] = []
    for group in torch.randperm(len(reader.paths), generator=generator).split(window):
        rows = torch.cat([torch.arange(bounds[i], bounds[i + 1]) for i in group.tolist()])
        order += rows[torch.randperm(len(rows), generator=generator)].tolist()
    return order
