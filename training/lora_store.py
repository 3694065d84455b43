"""A store of LoRAs: shards of stacked vectors in safetensors, one layout, every person once.

    store/layout.json
    store/train/00000.safetensors       loras (people, numel), person (people,), and what else was measured (people, …)
    store/validation/06000.safetensors  named after the first person of the shard

Several processes may write at once: a shard is a file of its own and appears only when it is whole, so a killed writer
loses the shard in hand and nothing else. There is no central index to go stale: the shards' headers are the index.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from difflora_core.layout import LoRALayout
from difflora_core.tensor_file import write_tensors


@dataclass(frozen=True)
class Shard:
    """A file and the people in it, in the order of its rows."""

    path: Path
    people: tuple[int, ...]


class LoRAStore:
    """LoRAs of one layout, by split and person."""

    def __init__(self, folder: str | Path, layout: LoRALayout) -> None:
        """Open a store, or begin one. Raises ValueError if the folder holds LoRAs of another layout."""
        self.folder, self.layout = Path(folder), layout
        description = self.folder / "layout.json"
        if not description.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = description.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(layout.to_dict()), encoding="utf-8")
            partial.replace(description)
            return
        found = LoRALayout.from_dict(json.loads(description.read_text(encoding="utf-8")))
        if (difference := layout.difference(found)) is not None:
            raise ValueError(f"{self.folder} holds LoRAs of another layout: {difference}. Choose another folder.")

    def add(self, split: str, people: Sequence[int], loras: Tensor, **measured: Tensor) -> None:
        """Write one shard: loras (people, numel), stored as float32, and measured tensors (people, …).

        Raises ValueError for a person that the store has already, or numbers that are not finite.
        """
        self.layout.check(loras)
        if len(people) != len(loras) or any(len(tensor) != len(people) for tensor in measured.values()):
            raise ValueError(f"A shard has one row per person: found {len(people)} people and {len(loras)} LoRAs.")
        if not loras.isfinite().all():
            row = int((~loras.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"The LoRA of person {people[row]} holds NaN or infinite numbers: it is not stored.")
        known = {person for shard in self.shards(split) for person in shard.people}
        if twice := sorted(known & set(people)):
            raise ValueError(f"The store has person {twice[0]} in {split!r} already.")
        tensors: Mapping[str, Tensor] = {"loras": loras.float().contiguous(), **measured}
        write_tensors(self._path(split, people), tensors, {"people": json.dumps(list(people))})

    def has(self, split: str, people: Sequence[int]) -> bool:
        """Whether the shard that begins with these people is there."""
        return self._path(split, people).exists()

    def shards(self, split: str) -> Iterator[Shard]:
        """The split's shards in the order of their first person."""
        for path in sorted((self.folder / split).glob("[0-9]*.safetensors")):
            with safe_open(path, "pt") as file:
                yield Shard(path, tuple(json.loads(file.metadata()["people"])))

    def read(self, split: str, name: str = "loras") -> tuple[Tensor, list[int]]:
        """All rows of a split: tensor `name` (people, …) and whose they are. FileNotFoundError if none."""
        rows: list[Tensor] = []
        people: list[int] = []
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

    def _path(self, split: str, people: Sequence[int]) -> Path:
        return self.folder / split / f"{people[0]:05d}.safetensors"
