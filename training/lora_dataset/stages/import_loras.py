"""LoRA files of the base model as a stage: stage pack takes them like the pipeline's own teachers.

One file is one item: a refused one is recorded with the reason and stops no other.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflora_core.files import write_tensors
from training.dreambooth.train import shared_start
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import configured_layout
from training.lora_dataset.item_names import item_name
from training.lora_dataset.manifest import Record
from training.lora_dataset.stage import Worker

from .lora_files import import_lora

LISTED_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Pickled files are listed, too, and refused."""
KEPT_METADATA = ("ss_base_model_version", "ss_sd_model_name", "ss_network_dim", "ss_network_alpha", "modelspec.title")
"""What is kept of a file's own metadata."""


@dataclass(frozen=True)
class ImportLoRAs:
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

    name = "import"
    gpu = False

    def files(self) -> dict[str, Path]:
        """Return the files by the name that the LoRA's person gets.

        Raises:
            ValueError: There is no such folder, or no LoRA file in it.
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
        # a.safetensors and a.pt: files that differ in their suffix alone are named by the whole name
        return {
            item_name(stem if stems.count(stem) == 1 else key, path.stem if "/" in key else None): path
            for (path, key), stem in zip(keys.items(), stems, strict=True)
        }

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the names of all files."""
        return list(self.files())

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Build the layout, and list the files. `device` is not used."""
        layout, files = configured_layout(config), self.files()
        start = shared_start(layout) if self.aligned else None

        def import_file(item: str) -> Record:
            path = files[item]
            found = import_lora(
                path, layout, self.approximate, self.leave_out_text_encoder, self.leave_out_other_layers, start
            )
            facts: dict[str, Any] = {
                "source": "import",
                "path": path.relative_to(self.folder).as_posix(),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "rank": found.rank,
                "lost_energy": found.lost_energy,
                "left_out": {
                    "text_encoder_tensors": found.text_tensors,
                    "other_modules": found.other_modules,
                    "other_energy": found.other_energy,
                },
                "aligned": self.aligned,
                "metadata": {key: found.metadata[key] for key in KEPT_METADATA if key in found.metadata},
            }
            metadata = {"people": json.dumps([item]), "provenance": json.dumps(facts)}
            write_tensors(config.stage(self.name) / f"{item}.safetensors", {"loras": found.lora[None]}, metadata)
            return Record(item, facts={"people": [item], **facts})

        return import_file

    def finish(self, config: DatasetConfig) -> None:
        """Do nothing: stage pack puts the LoRAs into the store."""
