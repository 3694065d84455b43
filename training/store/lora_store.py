"""A store of LoRAs: shards of stacked vectors in safetensors, one layout, every person once.

    store/layout.json
    store/train/00000.safetensors       loras (people, numel), and what else was measured (people, …)
    store/validation/ann.safetensors    named after the first person of the shard

A person is a number, as in the miniature, or a name that is safe as a file name, as in the pipeline. Several processes
may write at once: a shard is a file of its own and appears only when it is whole, so a killed writer loses the shard in
hand and nothing else. There is no central index to go stale: the shards' headers are the index, with the people and
where each LoRA comes from, and are read without the LoRAs. `lora_rows` reads random rows.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from difflora_core.files import describe_content, write_tensors
from difflora_core.lora.layout import LoRALayout

Person = int | str
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
MAX_HEADER_BYTES = 100_000_000  # bytes; what safetensors itself allows


@dataclass(frozen=True)
class Shard:
    """A file and the people in it, in the order of its rows; and where each one's LoRA comes from, if that is known."""

    path: Path
    people: tuple[Person, ...]
    provenance: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One line of the index. shard, row: where the LoRA lies. measured: what was stored as one number per person."""

    person: Person
    split: str
    shard: Path
    row: int
    rank: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


class LoRAStore:
    """LoRAs of one layout, by split and person."""

    def __init__(self, folder: str | Path, layout: LoRALayout) -> None:
        """Open a store, or begin one. Raises ValueError if the folder holds LoRAs of another layout."""
        self.folder, self.layout = Path(folder), layout
        self._read_shards: dict[Path, tuple[int, Shard]] = {}
        description = self.folder / "layout.json"
        if not description.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = description.with_suffix(f".{os.getpid()}.partial")
            try:
                partial.write_text(json.dumps(layout.to_dict()), encoding="utf-8")
                partial.replace(description)
            finally:
                partial.unlink(missing_ok=True)
            return
        found = LoRALayout.from_dict(json.loads(description.read_text(encoding="utf-8")))
        if (difference := layout.difference(found)) is not None:
            raise ValueError(f"{self.folder} holds LoRAs of another layout: {difference}. Choose another folder.")

    @classmethod
    def open(cls, folder: str | Path) -> "LoRAStore":
        """The store in a folder, whatever its layout. Raises FileNotFoundError if there is none."""
        description = Path(folder) / "layout.json"
        if not description.is_file():
            raise FileNotFoundError(f"{folder} holds no store of LoRAs: there is no {description.name}.")
        return cls(folder, LoRALayout.from_dict(json.loads(description.read_text(encoding="utf-8"))))

    def add(
        self,
        split: str,
        people: Sequence[Person],
        loras: Tensor,
        *,
        provenance: Sequence[Mapping[str, Any]] = (),
        **measured: Tensor,
    ) -> None:
        """Write one shard: loras (people, numel), stored as float32, and measured tensors (people, …).

        provenance: a JSON-ready mapping for each person, or nothing; equal ones are stored once.

        Raises:
            ValueError: the store has a person already, in any split; a name is not safe as a file name; numbers are
                not finite; the counts differ.
            OSError: the disk is full; no part of a file is left.
        """
        self.layout.check(loras)
        if len(people) != len(loras) or any(len(tensor) != len(people) for tensor in measured.values()):
            raise ValueError(f"A shard has one row per person: found {len(people)} people and {len(loras)} LoRAs.")
        if len(provenance) not in (0, len(people)):
            raise ValueError(f"{len(people)} people have {len(people)} provenances or none, found {len(provenance)}.")
        if not (finite := loras.isfinite().all(1)).all():
            row = int((~finite).nonzero()[0])
            raise ValueError(f"The LoRA of person {people[row]} holds NaN or infinite numbers: it is not stored.")
        path = self._path(split, people)
        if len(set(people)) < len(people):
            raise ValueError(f"A person is in the shard of {people[0]} twice.")
        for other in {split, *self.splits()}:
            known = {person for shard in self.shards(other) for person in shard.people}
            if twice := sorted(known & set(people), key=str):
                raise ValueError(f"The store has person {twice[0]} in {other!r} already.")
        if path.exists():  # the number 12 and the name 00012
            raise ValueError(f"{path} exists already: people are all numbers or all names, found {people[0]!r}.")
        metadata = {"people": json.dumps(list(people), ensure_ascii=False)}
        if provenance:
            lines = [json.dumps(dict(line), sort_keys=True, ensure_ascii=False) for line in provenance]
            kinds = list(dict.fromkeys(lines))
            metadata["provenance"] = f"[{','.join(kinds)}]"
            metadata["provenance_of"] = json.dumps([kinds.index(line) for line in lines])
        tensors: Mapping[str, Tensor] = {"loras": loras.float().contiguous(), **measured}
        write_tensors(path, tensors, metadata)

    def has(self, split: str, people: Sequence[Person]) -> bool:
        """Whether the shard that begins with these people is there."""
        return self._path(split, people).exists()

    def splits(self) -> list[str]:
        """Names of the splits that hold something, sorted."""
        return sorted({path.parent.name for path in self.folder.glob("*/*.safetensors")})

    def paths(self, split: str) -> list[Path]:
        """The split's files in the order of their first person."""
        return sorted((self.folder / split).glob("*.safetensors"))

    def shards(self, split: str) -> Iterator[Shard]:
        """The split's shards in the order of their first person. Each header is read once, unless its file changes."""
        for path in self.paths(split):
            changed = path.stat().st_mtime_ns
            known = self._read_shards.get(path)
            if known is None or known[0] != changed:
                known = self._read_shards[path] = (changed, read_shard(path))
            yield known[1]

    def count(self, split: str) -> int:
        """How many people a split holds."""
        return sum(len(shard.people) for shard in self.shards(split))

    def entries(self, split: str | None = None) -> Iterator[Entry]:
        """The index, of one split or of all, read without the LoRAs."""
        for name in self.splits() if split is None else [split]:
            for shard in self.shards(name):
                measured = _measured(shard.path)
                for row, person in enumerate(shard.people):
                    numbers = {name: values[row] for name, values in measured.items()}
                    origin = shard.provenance[row] if shard.provenance else {}
                    yield Entry(person, name, shard.path, row, self.layout.rank, origin, numbers)

    def read(self, split: str, name: str = "loras") -> tuple[Tensor, list[Any]]:
        """All rows of a split: tensor `name` (people, …) and whose they are. FileNotFoundError if none."""
        rows: list[Tensor] = []
        people: list[Person] = []
        for shard in self.shards(split):
            with safe_open(shard.path, "pt") as file:
                rows.append(file.get_tensor(name))
            people += shard.people
        if not rows:
            raise FileNotFoundError(f"{self.folder} holds no LoRAs of split {split!r}: train or import some first.")
        return torch.cat(rows), people

    def columns(self, split: str, start: int, stop: int) -> Tensor:
        """Numbers start…stop of every LoRA of a split (people, stop − start), read without the rest of the files."""
        parts = []
        for shard in self.shards(split):
            with safe_open(shard.path, "pt") as file:
                parts.append(file.get_slice("loras")[:, start:stop])
        return torch.cat(parts)

    def _path(self, split: str, people: Sequence[Person]) -> Path:
        if not people:
            raise ValueError("A shard needs at least one person, found none.")
        first = people[0]
        if isinstance(first, str) and (not first or first.startswith(".") or first != Path(first).name):
            raise ValueError(f"{first!r} cannot be a person's name: it has to be a plain file name.")
        return self.folder / split / (f"{first}.safetensors" if isinstance(first, str) else f"{first:05d}.safetensors")


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begins in bytes.

    The header holds dtype, shape and data_offsets (begin, end) of each tensor, and strings under `__metadata__`.

    Raises:
        ValueError: it is no safetensors file, or shorter than its header says.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= MAX_HEADER_BYTES else b""
    try:
        header = json.loads(text)
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {describe_content(path)}.") from error
    if path.stat().st_size < 8 + length + end:
        raise ValueError(f"{path} is truncated: it has {path.stat().st_size} bytes, expected {8 + length + end}.")
    return header, 8 + length


def _measured(path: Path) -> dict[str, list[float]]:
    """What a shard holds as one number per person. safe_open would map the LoRAs too."""
    header, begin = read_header(path)
    values = {}
    with path.open("rb") as file:
        for name, tensor in header.items():
            if name != "__metadata__" and len(tensor["shape"]) == 1 and tensor["dtype"] in DTYPES:
                first, last = tensor["data_offsets"]
                file.seek(begin + first)
                content = bytearray(file.read(last - first))
                values[name] = torch.frombuffer(content, dtype=DTYPES[tensor["dtype"]]).double().tolist()
    return values


def read_shard(path: Path) -> Shard:
    """Who is in a shard. Raises ValueError if the file is none."""
    metadata = read_header(path)[0].get("__metadata__", {})
    if "people" not in metadata:
        raise ValueError(f"{path} is no shard of a LoRA store: its metadata don't name the people.")
    kinds = json.loads(metadata.get("provenance", "[]"))
    provenance = tuple(kinds[i] for i in json.loads(metadata.get("provenance_of", "[]")))
    return Shard(path, tuple(json.loads(metadata["people"])), provenance)
