"""Which LoRAs are ready for stage pack, where they are, and which shard of the store each goes into.

The store has each LoRA's hash in its provenance: one that was trained or imported again replaces the one before.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import safe_open
from torch import Tensor

from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.manifest import Manifest
from training.store.lora_store import LoRAStore
from training.store.shard import Person, Shard, read_shard

SOURCES = ("dreambooth", "import")
MEASURED = ("loss", "similarity")
"""What the store has beside each LoRA, where it is known."""


@dataclass(frozen=True)
class Origin:
    """Where a person's LoRA is: a row of a file of a stage, or of the store itself."""

    person: str
    """Whose it is."""
    stage: str
    """That made it, one of `SOURCES`, or "store"."""
    group: str
    """The stage's item, or the shard, which names the file."""
    row: int
    """In the file."""
    lora: str = ""
    """Hash of the LoRA, "" if it is unknown."""

    @property
    def file(self) -> str:
        """The file, relative to the workspace."""
        return f"{self.stage}/{self.group}.safetensors"


def split_of(person: str, validation: float, test: float) -> str:
    """Return train, validation or test, by a hash of the name: it does not depend on who else is there.

    Raises:
        ValueError: Shares are below 0, or above 1 together.
    """
    if validation < 0 or test < 0 or validation + test > 1:
        raise ValueError(f"shares of people lie between 0 and 1: found validation {validation}, test {test}")
    position = int.from_bytes(hashlib.sha256(person.encode("utf-8")).digest()[:8], "big") / 2**64  # in [0, 1)
    return "validation" if position < validation else "test" if position < validation + test else "train"


def origins(config: DatasetConfig) -> Iterator[Origin]:
    """Yield every LoRA that is ready, by stage and group, without those of people who are gone."""
    gone = people_gone(config)
    for stage in SOURCES:
        for record in Manifest(config.stage(stage)).records():
            if record.status == "done":
                people = record.facts["people"]
                hashes = record.facts.get("loras", [""] * len(people))
                for row, (person, lora) in enumerate(zip(people, hashes, strict=True)):
                    if person not in gone[stage]:
                        yield Origin(person, stage, record.item, row, lora)


def people_gone(config: DatasetConfig) -> dict[str, set[str]]:
    """Return by source who was ready once and is not wanted any more; a record says so.

    People of whom there is no record at all stay in the store: folders may be deleted to save space.
    """
    prepared, imported = (Manifest(config.stage(name)).records() for name in ("preprocess", "import"))
    return {
        "dreambooth": {record.item for record in prepared if record.status in ("gone", "dropped")},
        "import": {record.item for record in imported if record.status in ("gone", "dropped")},
    }


def choose_origins(config: DatasetConfig, stored: Mapping[Person, str]) -> tuple[dict[str, Origin], list[Origin]]:
    """Choose one LoRA for each person: the one whose file is in the store, else the first.

    Args:
        config: Of the pipeline.
        stored: The file that each person's LoRA in the store comes from.

    Returns:
        The LoRAs by person, and those that are left out.
    """
    chosen: dict[str, Origin] = {}
    every = list(origins(config))
    for origin in every:
        if origin.person not in chosen or stored.get(origin.person) == origin.file:
            chosen[origin.person] = origin
    return chosen, [origin for origin in every if chosen[origin.person] != origin]


def make_plan(config: DatasetConfig, store: LoRAStore, dropped: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Plan which shards are written.

    A shard of the store is written again if the LoRA of one of its people is another now, or is not wanted any more.
    People who are not in the store make new shards. A person's split never changes.

    Args:
        config: Of the pipeline.
        store: The store.
        dropped: People whose LoRA cannot be stored, with the LoRA's hash.

    Returns:
        By item, as JSON takes it: split, people, and the file in the store that is replaced, "" for none.
    """
    ready, _ = choose_origins(config, stored_files(store))
    gone = people_gone(config)  # it reads a record of everybody
    settled = {person for person, lora in dropped.items() if person in ready and ready[person].lora == lora}
    plan = {}
    for split in store.splits():
        for shard in store.shards(split):
            people, changed = _people_now(store, shard, gone, ready, settled)
            if changed:
                file = shard.path.relative_to(store.folder).as_posix()
                entry = {"split": split, "people": [asdict(origin) for origin in people], "replaced": file}
                plan[f"{split}-{shard.people[0]}"] = entry
    return plan | _new_shards(config, [origin for person, origin in ready.items() if person not in settled])


def stored_files(store: LoRAStore) -> dict[Person, str]:
    """Return the file that each person's LoRA in the store comes from, "" if that is unknown."""
    files: dict[Person, str] = {}
    for split in store.splits():
        for shard in store.shards(split):
            lines = [line.get("file", "") for line in shard.provenance] or [""] * len(shard.people)
            files |= dict(zip(shard.people, lines, strict=True))
    return files


def _people_now(
    store: LoRAStore, shard: Shard, gone: Mapping[str, set[str]], ready: Mapping[str, Origin], settled: set[Any]
) -> tuple[list[Origin], bool]:
    """Who should be in a shard of the store, and whether that is another than now. Adds its people to `settled`."""
    people, changed = [], False
    group = shard.path.relative_to(store.folder).with_suffix("").as_posix()
    for row, person in enumerate(map(str, shard.people)):
        line = shard.provenance[row] if shard.provenance else {}
        now, source = ready.get(person), line.get("source", "")
        if person in settled or (now is None and person in gone.get(source, ())):
            changed = True  # in another shard too, as a writer that was killed leaves it; or not wanted any more
        elif now is not None and now.lora and now.lora != line.get("lora", ""):
            people.append(now)
            changed = True
        else:
            people.append(Origin(person, "store", group, row, line.get("lora", "")))
        settled.add(person)
    return people, changed


def _new_shards(config: DatasetConfig, people: Sequence[Origin]) -> dict[str, dict[str, Any]]:
    """Assign people who are not in the store to new shards."""
    by_split: dict[str, list[Origin]] = {}
    for origin in people:
        by_split.setdefault(split_of(origin.person, config.pack.validation, config.pack.test), []).append(origin)
    plan, size = {}, max(1, config.pack.people_per_shard)
    for split, own in by_split.items():
        for start in range(0, len(own), size):
            shard = [asdict(origin) for origin in own[start : start + size]]
            plan[f"{split}-{own[start].person}"] = {"split": split, "people": shard, "replaced": ""}
    return plan


def read_origin(config: DatasetConfig, origin: Origin) -> tuple[Tensor, dict[str, float], dict[str, Any]]:
    """Read a person's LoRA.

    Returns:
        The LoRA (numel,), what was measured of it, and what its file says of its provenance.

    Raises:
        FileNotFoundError: There is no such file.
        SafetensorError: The file cannot be read.
        ValueError: The file holds other people than its record says.
    """
    path = config.workspace / origin.file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, though its record says that it is done")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        people = json.loads(metadata.get("people", "[]"))
        if origin.row >= len(people) or str(people[origin.row]) != origin.person:
            raise ValueError(f"{path} holds {people}, expected {origin.person} in row {origin.row}")
        lora = file.get_slice("loras")[origin.row]
        measured = {name: float(file.get_slice(name)[origin.row]) for name in MEASURED if name in file.keys()}  # noqa: SIM118
    if origin.stage == "store":
        provenance = read_shard(path).provenance
        return lora.float(), measured, dict(provenance[origin.row]) if provenance else {}
    return lora.float(), measured, json.loads(metadata.get("provenance", "{}"))
