"""Part 3: two processes write into one folder, or one file, at once."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.layout import LoRALayout, LoRAModule
from tests.faults.fault_cases import World, by_name
from tests.faults.folder_state import contents, differences, leftovers
from tests.faults.forked_runs import Child, start, training
from training.store.lora_store import LoRAStore

LAYOUT = LoRALayout((LoRAModule("a", 6, 4),), rank=2)
PEOPLE = 40
WRITES = 200
HEADER = ("two writers at once", "result", "leftovers")


@dataclass
class Race:
    """What came of two writers."""

    name: str
    """What they wrote."""
    result: str
    """In a few words."""
    leftovers: list[str] = field(default_factory=list)
    """Partial files and locks."""
    problems: list[str] = field(default_factory=list)
    """All that is wrong."""

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        return self.name, self.result, str(len(self.leftovers))


def race(world: World, name: str, folder: Path, *writers: Callable[[], int]) -> Race:
    """Start writers at the same moment, and wait for all."""
    folder.mkdir(parents=True, exist_ok=True)
    children = [start(writer, folder, world.logs / name) for writer in writers]
    runs = [child.wait() for child in children]
    return Race(name, "", problems=[f"exit code {run.code}: {run.output[-500:]}" for run in runs if run.code])


def store_race(world: World) -> Race:
    """Two processes add the same people, each in an order of its own: everybody is in the store once."""
    folder = world.folder / "store-race"
    loras = torch.randn(PEOPLE, LAYOUT.numel, generator=torch.Generator().manual_seed(0))
    LoRAStore(folder, LAYOUT)

    def writer(seed: int) -> int:
        store, order = LoRAStore(folder, LAYOUT), list(range(PEOPLE))
        random.Random(seed).shuffle(order)
        for person in order:
            try:
                store.add("train", [person], loras[person][None])
            except ValueError as error:
                if "already" not in str(error):
                    raise
        return 0

    found = race(world, "LoRAStore.add", folder, lambda: writer(1), lambda: writer(2))
    rows, people = LoRAStore(folder, LAYOUT).read("train")
    whole = sorted(people) == list(range(PEOPLE)) and torch.equal(rows, loras[people])
    found.result = f"{len(people)} people once" if whole else "WRONG"
    found.problems += [] if whole else [f"the store holds {people}, or other LoRAs"]
    found.leftovers = leftovers(folder)
    return found


def file_race(world: World) -> Race:
    """Two processes write one file again and again, a third one reads it: always one version or the other."""
    path = world.folder / "file-race" / "one.safetensors"

    def writer(value: float) -> int:
        for _ in range(WRITES):
            write_tensors(path, {"x": torch.full((1000,), value)}, {"value": str(value)})
        return 0

    def reader() -> int:
        for _ in range(WRITES):
            if path.exists():
                tensors, metadata = read_tensors(path)
                assert (tensors["x"] == float(metadata["value"])).all(), "parts of two versions"
        return 0

    found = race(world, "write_tensors", path.parent, lambda: writer(1.0), lambda: writer(2.0), reader)
    tensors, metadata = read_tensors(path)
    whole = bool((tensors["x"] == float(metadata["value"])).all())
    found.result = "one version" if whole else "WRONG"
    found.problems += [] if whole else ["the file mixes two versions"]
    found.leftovers = leftovers(path.parent)
    return found


def command_race(world: World, name: str) -> Race:
    """A second command is started while the first one writes: it is refused and names the first, which goes on."""
    case = by_name(name)
    expected = contents(world.reference(case)[1])
    folder = world.set_up(case)
    words = world.words(case)
    first = start(training(words), folder, world.logs / "races")
    holder = _wait_for_holder(folder, first)
    second = start(training(words), folder, world.logs / "races").wait()
    ended = first.wait()
    found = Race(f"{name} twice", "second refused", leftovers=leftovers(folder))
    if second.code == 0 or f"process {first.pid} on" not in second.last_line:
        found.result = "NOT REFUSED"
        found.problems.append(f"the second ended with {second.code}: {second.last_line}")
    wrong = [f"the first ended with {ended.code}: {ended.last_line}"] if ended.code else []
    wrong += [] if holder else ["the first never said that it holds the folder"]
    found.problems += wrong + differences(contents(folder), expected) + found.leftovers
    return found


def _wait_for_holder(folder: Path, child: Child) -> bool:
    """Wait until a child holds a lock of the folder."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any(folder.rglob(".lock.json")):
            return True
        time.sleep(0.005)
    return False


CHECKS: tuple[Callable[[World], Race], ...] = (
    store_race,
    file_race,
    lambda world: command_race(world, "dreambooth"),
    lambda world: command_race(world, "train-lae"),
    lambda world: command_race(world, "finetune-lae"),
)
