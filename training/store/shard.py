"""Who is in a shard of the store, and where each LoRA comes from: what its header says."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .shard_file import read_header

Person = int | str


@dataclass(frozen=True)
class Shard:
    """A file and the people in it."""

    path: Path
    """Of the file."""
    people: tuple[Person, ...]
    """In the order of its rows."""
    provenance: tuple[Mapping[str, Any], ...] = ()
    """Where each one's LoRA comes from, if that is known."""


def provenance_metadata(provenance: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return metadata of provenances: equal ones once, and for each person the number of its own."""
    if not provenance:
        return {}
    lines = [json.dumps(dict(line), sort_keys=True, ensure_ascii=False) for line in provenance]
    kinds = list(dict.fromkeys(lines))
    numbers = [kinds.index(line) for line in lines]
    return {"provenance": f"[{','.join(kinds)}]", "provenance_of": json.dumps(numbers)}


def read_shard(path: Path) -> Shard:
    """Read who is in a shard, and check its header: one row for each person, every person once.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or is not a shard; what was found and expected is said.
    """
    header = read_header(path)[0]
    metadata = header.get("__metadata__", {})
    if "people" not in metadata:
        raise ValueError(f"{path} is not a shard of a LoRA store: its metadata do not name the people.")
    try:
        people = read_people(metadata["people"])
        for name, tensor in {"loras": {"shape": []}, **header}.items():
            if name != "__metadata__" and tensor["shape"][:1] != [len(people)]:
                raise ValueError(f"{len(people)} people, but {name!r} has the shape {tensor['shape']}")
        if len(header["loras"]["shape"]) != 2:
            raise ValueError(f"LoRAs of the shape {header['loras']['shape']}, expected ({len(people)}, numel)")
        return Shard(path, people, _read_provenance(metadata, len(people)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged shard of a LoRA store: it has {error}.") from error


def read_people(text: str) -> tuple[Person, ...]:
    """Read whose the rows are.

    Raises:
        ValueError: They are no distinct numbers or names.
    """
    people = json.loads(text)
    if not isinstance(people, list) or not all(type(person) in (int, str) for person in people):
        raise ValueError("metadata `people` that are not a list of numbers and names")
    if not people:
        raise ValueError("no people")
    if repeated := [person for person, number in Counter(people).items() if number > 1]:
        raise ValueError(f"person {repeated[0]!r} twice")
    return tuple(people)


def _read_provenance(metadata: Mapping[str, str], people: int) -> tuple[Mapping[str, Any], ...]:
    """Read where each person's LoRA comes from; nothing if that is not stored.

    Raises:
        ValueError: It is not stored for each person.
    """
    kinds = json.loads(metadata.get("provenance", "[]"))
    numbers = json.loads(metadata.get("provenance_of", "[]"))
    if not isinstance(kinds, list) or not all(isinstance(kind, dict) for kind in kinds):
        raise ValueError("metadata `provenance` that are not a list of JSON objects")
    known = range(len(kinds))
    if not isinstance(numbers, list) or not all(type(number) is int and number in known for number in numbers):
        raise ValueError(f"metadata `provenance_of` that are not a list of numbers below {len(kinds)}")
    if len(numbers) not in (0, people):
        raise ValueError(f"{people} people and {len(numbers)} provenances")
    return tuple(kinds[number] for number in numbers)
