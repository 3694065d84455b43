"""Speed of random batches from the LoRA store, and memory of reading from stores of growing size.

    python -m benchmarks.lora_store [--loras 4096] [--batch 32] [--sizes 1000 8000 64000] [--sdxl] [--folder DIR]

Speed: random batches against plain sequential reading of the same bytes in blocks of the same size into one buffer, in
turns; cold, with the files dropped from the page cache before (Linux), and warm. Files of random values: 1.7 GB for
4,096 LoRAs of the miniature's 105,728 values. Memory: peak of a separate process that reads up to 64 random batches,
from stores whose files have holes in place of LoRAs. Everything is written into a temporary folder and removed. --sdxl:
with LoRAs of SDXL's 5,806,080 values instead.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.peak_memory import peak_gib
from difflora_core.lora.layout import LoRALayout
from training.store.lora_store import LoRAStore
from training.store.row_reader import RowReader

SHARD = 64
BATCHES = 64
ROUNDS = 3


def fill_store(folder: Path, layout: LoRALayout, loras: int, holes: bool) -> LoRAStore:
    """Write a synthetic store of `loras` people; with holes the LoRAs take no space on the disk."""
    store = LoRAStore(folder, layout)
    values = torch.randn(min(SHARD, loras), layout.numel) if not holes else torch.empty(0)
    for first in range(0, loras, SHARD):
        people = [f"person{i:06d}" for i in range(first, min(first + SHARD, loras))]
        if holes:
            write_holes(folder / "train" / f"{people[0]}.safetensors", people, layout.numel)
        else:
            store.add("train", people, values[: len(people)])
    return store


def write_holes(path: Path, people: list[str], numel: int) -> None:
    """Write a shard whose LoRAs are a hole in the file: zeros that take no space on the disk."""
    size = 4 * len(people) * numel
    loras = {"dtype": "F32", "shape": [len(people), numel], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"people": json.dumps(people)}, "loras": loras}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def drop_from_cache(paths: list[Path]) -> None:
    """Drop files from the page cache (Linux)."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_in_order(paths: list[Path], block: int) -> None:
    """Read all bytes of all files in order, in blocks of so many bytes into one buffer."""
    buffer = bytearray(block)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_at_random(reader: RowReader, batch: int, batches: int) -> None:
    """Read random batches as the trainers do, into one tensor; no row twice."""
    memory, order = torch.empty(batch, reader.numel), torch.randperm(len(reader)).tolist()
    for first in range(0, batches * batch, batch):
        reader.read(order[first : first + batch], memory)


def read_all_at_random(store: LoRAStore, batch: int) -> None:
    """Read all LoRAs once in random batches, but for those that fill no batch."""
    with RowReader(store, "train") as reader:
        read_at_random(reader, batch, len(reader) // batch)


def seconds(work: Callable[[], None]) -> float:
    """Wall time of a function."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed(store: LoRAStore, batch: int) -> None:
    """Print GB/s and ratios: medians over rounds in which the methods take turns."""
    paths, block = store.paths("train"), 4 * batch * store.layout.numel
    size = sum(path.stat().st_size for path in paths) / 1e9
    methods: dict[str, Callable[[], None]] = {
        "in order": lambda: read_in_order(paths, block),
        "random rows": lambda: read_all_at_random(store, batch),
    }
    for state in ("cold", "warm") if hasattr(os, "posix_fadvise") else ("warm",):
        times: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(ROUNDS):
            for name, method in methods.items():
                if state == "cold":
                    drop_from_cache(paths)
                times[name].append(seconds(method))
        plain = statistics.median(times["in order"])
        for name, measured in times.items():
            median = statistics.median(measured)
            print(f"{state}  {name:20s} {size / median:6.2f} GB/s  ratio {plain / median:.2f}", flush=True)


def peak_memory(folder: Path, batch: int) -> str:
    """Peak memory in MB before and after random batches, for a child process to print."""
    torch.zeros(batch, LoRAStore.open(folder).layout.numel)  # a batch is counted as memory before
    before = peak_gib()
    with RowReader(LoRAStore.open(folder), "train") as reader:
        read_at_random(reader, batch, min(BATCHES, len(reader) // batch))
    return f"{1024 * before:.1f} {1024 * peak_gib():.1f}"


def memory(folder: Path, layout: LoRALayout, sizes: list[int], batch: int) -> None:
    """Print the peak memory of a separate process for each size of store."""
    print("   LoRAs  shards  store GB  MB before  MB peak  index s")
    for size in sizes:
        store = fill_store(folder / str(size), layout, size, holes=True)
        call = [sys.executable, "-m", "benchmarks.lora_store", "--child", str(store.folder), "--batch", str(batch)]
        before, peak = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
        listing = seconds(lambda store=store: sum(1 for _ in store.entries()))  # type: ignore[misc]
        whole = 4e-9 * size * layout.numel
        shards = len(store.paths("train"))
        print(f"{size:8d} {shards:7d} {whole:9.1f} {before:>10s} {peak:>8s} {listing:8.2f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loras", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 8000, 64000])
    parser.add_argument("--sdxl", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        print(peak_memory(arguments.child, arguments.batch))
        return
    from miniature.base_model.config import lora_layout  # only here: its libraries would add to the child's memory

    layout = LoRALayout.from_config(None, 4) if arguments.sdxl else lora_layout()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        speed(fill_store(Path(folder) / "speed", layout, arguments.loras, holes=False), arguments.batch)
        memory(Path(folder), layout, arguments.sizes, arguments.batch)


if __name__ == "__main__":
    main()
