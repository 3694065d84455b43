"""A store of LoRAs: shards of stacked vectors in safetensors, one layout, every person once.

    store/layout.json
    store/train/00000.safetensors       loras (people, numel), and what else was measured (people, …)
    store/validation/ann.safetensors    named after the first person of the shard

A person is a number, as in the miniature, or a name that is safe as a file name, as in the LoRA dataset. Several
processes may write at once: a shard is a file of its own and appears only when it is complete, so a killed writer loses
the shard in progress and nothing else; a lock lets one writer after the other check that its people are new, and write.
There is no central index that could be outdated: the shards' headers are the index, with the people and where each LoRA
comes from, and are read without the LoRAs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from difflora_core.fields import read_json_file
from difflora_core.files import MAX_ATTEMPTS, open_tensors, replacing, write_tensors
from difflora_core.lora.layout import LoRALayout
from difflora_core.network_files import READING_ERRORS, describe_reading_error

from .shard import Person, Shard, provenance_metadata, read_people, read_shard
from .shard_file import file_version, read_measured

LOCK_SECONDS = 600.0
"""How long a writer waits for another one: a shard of 64 LoRAs of SDXL is 1.3 GB."""


@dataclass(frozen=True)
class Entry:
    """One line of the index."""

    person: Person
    """Whose LoRA it is."""
    split: str
    """train, validation …"""
    shard: Path
    """The file."""
    row: int
    """In the file."""
    rank: int
    """Of the LoRA."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the LoRA comes from."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """What was stored as one value per person."""


class LoRAStore:
    """LoRAs of one layout, by split and person."""

    def __init__(self, folder: str | Path, layout: LoRALayout) -> None:
        """Open a store, or begin one.

        Args:
            folder: Of the store.
            layout: Of its LoRAs.

        Raises:
            ValueError: The folder holds LoRAs of another layout, or its layout.json is damaged.
        """
        self.folder, self.layout = Path(folder), layout
        self._known_shards: dict[Path, tuple[tuple[int, ...], Shard]] = {}
        description = self.folder / "layout.json"
        if not description.exists():
            with replacing(description) as partial:
                partial.write_text(json.dumps(layout.to_dict()), encoding="utf-8")
            return
        found = _read_layout(description)
        if (difference := layout.difference(found)) is not None:
            raise ValueError(f"{self.folder} holds LoRAs of another layout: {difference}. Choose another folder.")

    @classmethod
    def open(cls, folder: str | Path) -> "LoRAStore":
        """Open the store in a folder, whatever its layout.

        Raises:
            FileNotFoundError: There is none.
            ValueError: Its layout.json is damaged.
        """
        description = Path(folder) / "layout.json"
        if not description.is_file():
            raise FileNotFoundError(
                f"{folder} holds no store of LoRAs: there is no {description.name}. `python -m training dataset all` "
                "makes one from images, `python -m training dataset import` from LoRA files."
            )
        return cls(folder, _read_layout(description))

    def add(
        self,
        split: str,
        people: Sequence[Person],
        loras: Tensor,
        *,
        provenance: Sequence[Mapping[str, Any]] = (),
        replaced: Path | None = None,
        **measured: Tensor,
    ) -> None:
        """Write one shard. Of several processes that add the same person, one does, and the others fail.

        Args:
            split: train, validation …
            people: Whose LoRAs they are.
            loras: (people, numel), stored as float32.
            provenance: A JSON-ready mapping for each person, or nothing; equal ones are stored once.
            replaced: A shard of this split whose place the new one takes; its people may be in the new one.
            measured: Other tensors (people, …).

        Raises:
            ValueError: The store has a person already, in any split; a name is not safe as a file name; weights are not
                finite; the counts differ.
            OSError: The disk is full; no part of a file is left.
        """
        self._check(people, loras, provenance, measured)
        path = self._path(split, people)
        metadata = {"people": json.dumps(list(people), ensure_ascii=False), **provenance_metadata(provenance)}
        with self._writing():
            self._check_new(split, people, path, replaced)
            write_tensors(path, {"loras": loras.float().contiguous(), **measured}, metadata)
            if replaced is not None and replaced != path:
                replaced.unlink(missing_ok=True)

    def remove(self, shard: Path) -> None:
        """Remove a shard."""
        with self._writing():
            shard.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Let one process at a time change the store; a killed one leaves no lock.

        Raises:
            TimeoutError: Another process has been writing for a long time.
        """
        path = self.folder / ".lock"
        try:
            with FileLock(path, timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise TimeoutError(
                f"another process has been writing to {self.folder} for {LOCK_SECONDS:.0f} seconds (it holds {path}): "
                "wait until it has ended, then run the same command again"
            ) from None

    def _check(
        self,
        people: Sequence[Person],
        loras: Tensor,
        provenance: Sequence[Mapping[str, Any]],
        measured: Mapping[str, Tensor],
    ) -> None:
        self.layout.check(loras)
        for name, tensor in {"loras": loras, **measured}.items():
            if len(tensor) != len(people):
                found = f"{len(people)} people and {len(tensor)} rows of {name}"
                raise ValueError(f"A shard has one row per person: found {found}.")
        if len(provenance) not in (0, len(people)):
            raise ValueError(f"{len(people)} people have {len(people)} provenances or none, found {len(provenance)}.")
        # In float32, as they are stored: float64 has numbers that are infinite there
        if not (finite := loras.float().isfinite().all(1)).all():
            row = int((~finite).nonzero()[0])
            raise ValueError(
                f"The LoRA of person {people[row]} holds NaN or infinite weights in float32: it is not stored."
            )

    def _check_new(self, split: str, people: Sequence[Person], path: Path, replaced: Path | None) -> None:
        if len(set(people)) < len(people):
            raise ValueError(f"A person is in the shard of {people[0]} twice.")
        for other in {split, *self.splits()}:
            known = {person for shard in self.shards(other) if shard.path != replaced for person in shard.people}
            if twice := sorted(known & set(people), key=str):
                raise ValueError(f"The store has person {twice[0]} in {other!r} already.")
        if path.exists() and path != replaced:  # the number 12 and the name 00012
            raise ValueError(f"{path} exists already: people are all numbers or all names, found {people[0]!r}.")

    def has(self, split: str, people: Sequence[Person]) -> bool:
        """Return whether the shard that begins with these people exists."""
        return self._path(split, people).exists()

    def splits(self) -> list[str]:
        """Return the names of the splits that hold something, sorted."""
        return sorted({path.parent.name for path in self.folder.glob("*/*.safetensors")})

    def paths(self, split: str) -> list[Path]:
        """Return the split's files in the order of their first person."""
        return sorted((self.folder / split).glob("*.safetensors"))

    def shards(self, split: str) -> Iterator[Shard]:
        """Yield the split's shards in the order of their first person. A header is read again only if its file changes.

        Raises:
            ValueError: A file is damaged, or is not a shard.
        """
        for path in self.paths(split):
            version = file_version(path.stat())
            known = self._known_shards.get(path)
            if known is None or known[0] != version:
                known = self._known_shards[path] = (version, read_shard(path))
            yield known[1]

    def count(self, split: str) -> int:
        """Return how many people a split holds."""
        return sum(len(shard.people) for shard in self.shards(split))

    def entries(self, split: str | None = None) -> Iterator[Entry]:
        """Yield the index, of one split or of all, read without the LoRAs."""
        for name in self.splits() if split is None else [split]:
            for shard in self.shards(name):
                measured = read_measured(shard.path)
                for row, person in enumerate(shard.people):
                    values = {key: column[row] for key, column in measured.items()}
                    origin = shard.provenance[row] if shard.provenance else {}
                    yield Entry(person, name, shard.path, row, self.layout.rank, origin, values)

    def read(self, split: str, name: str = "loras") -> tuple[Tensor, list[Any]]:
        """Read all rows of a split: tensor `name` (people, …), and whose they are.

        Raises:
            FileNotFoundError: The split holds no LoRAs.
        """
        rows: list[Tensor] = []
        people: list[Person] = []
        for path in self.paths(split):
            shard, tensor = _read_version(path, name)
            rows.append(tensor)
            people += shard.people
        if not rows:
            raise FileNotFoundError(f"{self.folder} holds no LoRAs of split {split!r}: train or import some first.")
        return torch.cat(rows), people

    def columns(self, split: str, start: int, stop: int) -> Tensor:
        """Read weights start…stop of every LoRA of a split (people, stop − start), without the rest of the files."""
        parts = []
        for shard in self.shards(split):
            with open_tensors(shard.path) as file:
                parts.append(file.get_slice("loras")[:, start:stop])
        return torch.cat(parts)

    def _path(self, split: str, people: Sequence[Person]) -> Path:
        if not people:
            raise ValueError("A shard needs at least one person, found none.")
        first = people[0]
        if isinstance(first, str) and (not first or first.startswith(".") or first != Path(first).name):
            raise ValueError(f"{first!r} cannot be a person's name: it has to be a plain file name.")
        return self.folder / split / (f"{first}.safetensors" if isinstance(first, str) else f"{first:05d}.safetensors")


def _read_layout(path: Path) -> LoRALayout:
    """Read the layout of a store's LoRAs.

    Raises:
        ValueError: The file is damaged, or something else.
    """
    try:
        return LoRALayout.from_dict(read_json_file(path, "its content"))
    except READING_ERRORS as error:
        raise ValueError(
            f"{path} is no layout of LoRAs: {describe_reading_error(error)}. Copy the file of a store of the same base "
            "model and rank."
        ) from error


def _read_version(path: Path, name: str) -> tuple[Shard, Tensor]:
    """Read whose a shard's rows are, and a tensor, both of one version of a file that another process may replace."""
    for _ in range(MAX_ATTEMPTS):
        shard = read_shard(path)
        with open_tensors(path) as file:
            if read_people((file.metadata() or {}).get("people", "")) == shard.people:
                return shard, file.get_tensor(name)
    raise OSError(f"{path} was replaced again and again while it was read; try again when it is written less often")
