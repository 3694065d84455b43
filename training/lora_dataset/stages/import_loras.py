"""LoRA files of the base model as a stage: stage pack takes them like the pipeline's own teachers.

One file is one item: a refused one is recorded with the reason and stops no other. Files count by content: one that was
trained again is imported again, and several copies of one LoRA are one person.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from difflora_core.files import write_tensors
from training.dreambooth.train import shared_start
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import configured_layout
from training.lora_dataset.fingerprints import Fingerprint, hash_files, hash_tensor, hash_value
from training.lora_dataset.item_names import item_name
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker

from .lora_files import ImportedLoRA, import_lora

LISTED_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Pickled files are listed, too, and refused."""
KEPT_METADATA = ("ss_base_model_version", "ss_sd_model_name", "ss_network_dim", "ss_network_alpha", "modelspec.title")
"""What is kept of a file's own metadata."""


@dataclass(frozen=True)
class ImportLoRAs(Stage):
    """A folder of LoRA files as a stage: run it with `run_stage`, then pack. An item is a file."""

    folder: Path
    """Searched with its subfolders."""
    approximate: bool = False
    """See `import_lora`."""
    leave_out_text_encoder: bool = False
    """See `import_lora`."""
    leave_out_other_layers: bool = False
    """See `import_lora`."""
    aligned: bool = False
    """Rotate the factors towards the start that the pipeline's own teachers share."""
    keep: bool = False
    """Keep what was imported before, even where the file or the options have changed since; the run is told so, too."""
    people: frozenset[str] | None = None
    """Whose LoRAs are imported; None for all that are found."""

    name = "import"
    lists_all = False

    def files(self, config: DatasetConfig) -> dict[str, Path]:
        """Return the files by the name that the LoRA's person gets.

        A file whose name another folder's file of other content has got already is another person.

        Raises:
            ValueError: There is no such folder, no LoRA file in it, or two names are one in two forms of Unicode.
        """
        if not self.folder.is_dir():
            raise ValueError(f"there is no folder {self.folder} to import LoRAs from")
        found = sorted(
            path for path in self.folder.rglob("*") if path.suffix.lower() in LISTED_SUFFIXES and path.is_file()
        )
        if not found:
            raise ValueError(f"{self.folder} holds no LoRA files ({', '.join(LISTED_SUFFIXES)})")
        keys = {path: path.relative_to(self.folder).as_posix() for path in found}
        stems = [key.rsplit(".", 1)[0] for key in keys.values()]
        manifest, names = Manifest(config.stage(self.name)), dict[str, Path]()
        for (path, key), stem in zip(keys.items(), stems, strict=True):
            # a.safetensors and a.pt: files that differ in their suffix alone are named by the whole name
            name = item_name(stem if stems.count(stem) == 1 else key, path.stem if "/" in key else None)
            before = manifest.read(name)
            if before is not None and self._is_namesake(before, path):
                name = item_name(path.resolve().as_posix(), path.stem)
            if (other := names.setdefault(name, path)) != path:
                raise ValueError(
                    f"{other} and {path} are one name in two forms of Unicode, which differ in how accents are "
                    "written: rename or delete one of them"
                )
        return names

    def _is_namesake(self, before: Record, path: Path) -> bool:
        """Whether a record is of a file of another folder with another content."""
        folder = before.facts.get("folder")
        return folder not in (None, str(self.folder.resolve())) and before.facts["sha256"] != _content_hash(path)

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the names of the files that are imported."""
        return [name for name in self.files(config) if self.people is None or name in self.people]

    def begin(self, config: DatasetConfig) -> None:
        """Check that aligned LoRAs and others are not mixed.

        Raises:
            ValueError: They would be.
        """
        again = set() if self.keep else set(self.files(config))
        for record in Manifest(config.stage(self.name)).records():
            other = record.status == "done" and record.facts.get("aligned", self.aligned) != self.aligned
            if other and record.item not in again and not config.pack.canonical:
                how = "with" if record.facts["aligned"] else "without"
                raise ValueError(
                    f"{record.item} was imported {how} --aligned from {record.facts.get('folder')}, and the two cannot "
                    f"be compared in one store: import {how} it, use another workspace, or set pack.canonical"
                )

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a file: its content and that of PEFT's adapter_config.json beside it, the layout, and the options."""
        files = self.files(config)
        options = ("approximate", "leave_out_text_encoder", "leave_out_other_layers", "aligned")
        common = {f"import.{name}": getattr(self, name) for name in options}
        common["layout"] = hash_value(configured_layout(config).to_dict())
        return lambda item: {"file": _content_hash(files[item]), **common}

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Build the layout, and list the files. `device` is not used."""
        layout, files = configured_layout(config), self.files(config)
        start = shared_start(layout) if self.aligned else None

        def import_file(item: str) -> Record:
            found = import_lora(
                files[item], layout, self.approximate, self.leave_out_text_encoder, self.leave_out_other_layers, start
            )
            facts = self._facts(files[item], found)
            metadata = {"people": json.dumps([item]), "provenance": json.dumps(facts)}
            write_tensors(config.stage(self.name) / f"{item}.safetensors", {"loras": found.lora[None]}, metadata)
            return Record(item, facts={"people": [item], "loras": [hash_tensor(found.lora)], **facts})

        return import_file

    def _facts(self, path: Path, found: ImportedLoRA) -> dict[str, Any]:
        """What is recorded of a file, also as its LoRA's provenance."""
        return {
            "source": "import",
            "folder": str(self.folder.resolve()),
            "path": path.relative_to(self.folder).as_posix(),
            "sha256": _content_hash(path),
            "rank": found.rank,
            "lost_energy": found.lost_energy,
            "left_out": {
                "text_encoder_tensors": found.text_tensors,
                "other_modules": found.other_modules,
                "other_tensors": found.other_tensors,
                "other_energy": found.other_energy,
            },
            "aligned": self.aligned,
            "metadata": {key: found.metadata[key] for key in KEPT_METADATA if key in found.metadata},
        }

    def finish(self, config: DatasetConfig) -> None:
        """Keep one of several files that are the same LoRA: one that was imported before, else the first by name."""
        manifest = Manifest(config.stage(self.name))
        first: dict[str, str] = {}
        records = [record for record in manifest.records() if record.status in ("done", "dropped")]
        for record in sorted(records, key=lambda record: (record.status != "done", record.item)):
            kept = first.setdefault(record.facts["loras"][0], record.item)
            if kept == record.item:
                new = replace(record, status="done", reason="")
            else:
                new = replace(record, status="dropped", reason=f"it is the same LoRA as {kept}")
            if new != record:
                manifest.write(new)
        if found := describe_left_out([record.facts["left_out"] for record in records]):
            print(found)


def describe_left_out(records: Sequence[Mapping[str, float]]) -> str:
    """Return what was left out of LoRAs by the options, in one line; nothing if nothing was.

    Args:
        records: `left_out` of each LoRA's facts.
    """
    facts = []
    if outside := [record for record in records if record["other_tensors"]]:
        layers, tensors = (sum(record[name] for record in outside) for name in ("other_modules", "other_tensors"))
        most = max(record["other_energy"] for record in outside)
        facts.append(
            f"{layers} layers ({tensors} tensors, up to {most:.1%} of a change's energy) of {len(outside)} LoRAs"
        )
    if text := [record["text_encoder_tensors"] for record in records if record["text_encoder_tensors"]]:
        facts.append(f"{sum(text)} tensors of text encoders of {len(text)} LoRAs")
    return f"left out: {'; '.join(facts)}" if facts else ""


def _content_hash(path: Path) -> str:
    """Hash all that `import_lora` reads of a file."""
    return hash_files([path, path.with_name("adapter_config.json")])
