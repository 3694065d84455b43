"""Which LoRAs are ready for stage pack, where they are, and which shard of the store each goes into."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import safe_open
from torch import Tensor

from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.manifest import Manifest

SOURCES = ("dreambooth", "import")


@dataclass(frozen=True)
class Origin:
    """Where a person's LoRA is: a row of a file of a stage."""

    person: str
    """Whose it is."""
    stage: str
    """That made it, one of `SOURCES`."""
    group: str
    """The stage's item, which names the file."""
    row: int
    """In the file."""

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
    """Yield every person whose LoRA is ready, by stage and group."""
    for stage in SOURCES:
        for record in Manifest(config.stage(stage)).records():
            if record.status == "done":
                for row, person in enumerate(record.facts["people"]):
                    yield Origin(person, stage, record.item, row)


def make_plan(config: DatasetConfig, settled: set[Any]) -> dict[str, dict[str, Any]]:
    """Assign people who are ready and not settled to new shards: split and people of each, as JSON takes them."""
    by_split: dict[str, dict[str, Origin]] = {}
    seen = set(settled)
    for origin in origins(config):
        if origin.person not in seen:
            seen.add(origin.person)
            split = split_of(origin.person, config.pack.validation, config.pack.test)
            by_split.setdefault(split, {})[origin.person] = origin
    plan, size = {}, max(1, config.pack.people_per_shard)
    for split, by_person in by_split.items():
        people = list(by_person.values())
        for start in range(0, len(people), size):
            shard = [asdict(origin) for origin in people[start : start + size]]
            plan[f"{split}-{people[start].person}"] = {"split": split, "people": shard}
    return plan


def read_origin(config: DatasetConfig, origin: Origin) -> tuple[Tensor, float, dict[str, Any]]:
    """Read a person's LoRA.

    Returns:
        The LoRA (numel,), its teacher's loss (NaN if there is none) and what its file says of its provenance.

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
        if origin.row >= len(people) or people[origin.row] != origin.person:
            raise ValueError(f"{path} holds {people}, expected {origin.person} in row {origin.row}")
        lora = file.get_slice("loras")[origin.row]
        loss = float(file.get_slice("loss")[origin.row]) if "loss" in file.keys() else float("nan")  # noqa: SIM118
    return lora.float(), loss, json.loads(metadata.get("provenance", "{}"))
