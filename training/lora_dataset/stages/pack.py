"""Stage pack: the trained and the imported LoRAs → shards of the store, split into train, validation and test.

An item is a shard. People who are in the store stay where they are: more people later only means more shards.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from difflora_core.files import replacing
from difflora_core.lora.canonical_form import canonical
from difflora_core.lora.layout import LoRALayout
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Worker
from training.store.lora_store import LoRAStore

SOURCES = ("dreambooth", "import")
CANONICAL_AT_ONCE = 8  # LoRAs; the arithmetic is float64
BLOCKS, BLOCK = 16, 65_536  # what of a weight file is hashed: so many blocks of so many bytes


@dataclass(frozen=True)
class Origin:
    """Where a person's LoRA lies: a row of a file of stage `stage`."""

    person: str
    stage: str
    group: str
    row: int


def layout_of(config: DatasetConfig) -> LoRALayout:
    """The layout of the configured teachers, from the base model's configuration alone.

    Raises:
        FileNotFoundError: the base model has no configuration of a U-Net.
    """
    path = config.base / "unet" / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: `base` has to be SDXL as a diffusers folder")
    return _layout(path.read_text(encoding="utf-8"), config.dreambooth.rank, config.dreambooth.feed_forward)


@lru_cache(maxsize=4)  # building SDXL's modules, without weights, takes a second
def _layout(unet: str, rank: int, feed_forward: bool) -> LoRALayout:
    return LoRALayout.from_unet_config(json.loads(unet), rank, feed_forward)


def split_of(person: str, validation: float, test: float) -> str:
    """train, validation or test, by the hash of the name: it doesn't depend on who else is there.

    Raises:
        ValueError: shares below 0, or above 1 together.
    """
    if validation < 0 or test < 0 or validation + test > 1:
        raise ValueError(f"shares of people lie between 0 and 1: found validation {validation}, test {test}")
    place = int.from_bytes(hashlib.sha256(person.encode("utf-8")).digest()[:8], "big") / 2**64  # in [0, 1)
    return "validation" if place < validation else "test" if place < validation + test else "train"


def origins(config: DatasetConfig) -> Iterator[Origin]:
    """Everybody whose LoRA is ready, by stage and group."""
    for stage in SOURCES:
        for record in Manifest(config.stage(stage)).records():
            if record.status == "done":
                for row, person in enumerate(record.facts["people"]):
                    yield Origin(person, stage, record.item, row)


class Pack:
    """The stage. Its plan, who goes into which shard, lies in pack/plan/plan.json: all workers follow the same."""

    name = "pack"
    gpu = False

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Shards that are still to be written: writes the plan and returns its names.

        Records of shards that somebody deleted become failed ones: their people are packed again.
        """
        store, manifest = LoRAStore(config.stage("store"), layout_of(config)), Manifest(config.stage(self.name))
        settled = {person for split in store.splits() for shard in store.shards(split) for person in shard.people}
        for record in list(manifest.records()):
            if record.status == "done" and not settled.issuperset(record.facts["people"]):
                lost = "its shard is not in the store any more"
                manifest.write(replace(record, status="failed", reason=lost))
        for record in manifest.records():
            settled |= {entry["person"] for entry in record.facts.get("dropped", [])}
        by_split: dict[str, list[Origin]] = {}
        for origin in origins(config):
            if origin.person not in settled:
                settled.add(origin.person)
                split = split_of(origin.person, config.pack.validation, config.pack.test)
                by_split.setdefault(split, []).append(origin)
        plan: dict[str, dict[str, Any]] = {}
        size = max(1, config.pack.shard)
        for split, people in by_split.items():
            for at in range(0, len(people), size):
                piece = people[at : at + size]
                plan[f"{split}-{piece[0].person}"] = {"split": split, "people": [asdict(origin) for origin in piece]}
        with replacing(_plan_path(config)) as partial:
            partial.write_text(json.dumps(plan, ensure_ascii=False), encoding="utf-8")
        return list(plan)

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Writes one shard of the plan. `device` doesn't matter.

        Raises:
            ValueError: the store was packed with the other setting of `canonical`.
        """
        store = LoRAStore(config.stage("store"), layout_of(config))
        form = "canonical" if config.pack.canonical else "raw"
        _check_form(store, form)
        plan = json.loads(_plan_path(config).read_text(encoding="utf-8"))
        trained = {"source": "dreambooth", "base": base_facts(config.base), "teacher": asdict(config.dreambooth)}

        def work(item: str) -> Record:
            split, people = plan[item]["split"], [Origin(**entry) for entry in plan[item]["people"]]
            loras = torch.empty(len(people), store.layout.numel)
            names: list[str] = []
            losses: list[float] = []
            provenance: list[dict[str, Any]] = []
            dropped: list[dict[str, str]] = []
            failed: list[dict[str, str]] = []
            for origin in people:
                try:
                    lora, loss, told = read_origin(config, origin)
                    store.layout.check(lora)
                except (FileNotFoundError, ValueError, SafetensorError) as error:
                    failed.append({"person": origin.person, "reason": f"{type(error).__name__}: {error}"})
                    continue
                if not lora.isfinite().all():
                    reason = "its LoRA holds NaN or infinite numbers: train it again and delete this record"
                    dropped.append({"person": origin.person, "reason": reason})
                    continue
                loras[len(names)] = lora
                names.append(origin.person)
                losses.append(loss)
                where = {"file": f"{origin.stage}/{origin.group}.safetensors", "form": form}
                provenance.append({**(trained if origin.stage == "dreambooth" else {}), **told, **where})
            if names:
                loras = loras[: len(names)]
                if config.pack.canonical:
                    _make_canonical(loras, store.layout)
                similarity = torch.tensor([_similarity(config, name) for name in names])
                measured = {"loss": torch.tensor(losses), "similarity": similarity}
                store.add(split, names, loras, provenance=provenance, **measured)
            return _record(item, split, names, dropped, failed)

        return work

    def finish(self, config: DatasetConfig) -> None:
        """Make the records agree with the store: a shard whose writer was killed before its record gets one, a failure
        that a later shard made good is settled, and a person who came twice is told.
        """
        store, manifest = LoRAStore(config.stage("store"), layout_of(config)), Manifest(config.stage(self.name))
        where: dict[Any, str] = {}
        listed = {person for record in manifest.records() for person in record.facts.get("people", [])}
        for split in store.splits():
            for shard in store.shards(split):
                if not listed & set(shard.people):
                    manifest.write(_record(f"{split}-{shard.people[0]}", split, [str(p) for p in shard.people], [], []))
                sources = [line.get("file", "") for line in shard.provenance] or [""] * len(shard.people)
                where |= dict(zip(shard.people, sources, strict=True))
        for record in list(manifest.records()):
            left = [entry for entry in record.facts.get("failed", []) if entry["person"] not in where]
            if record.status == "failed" and record.facts and not left:
                manifest.write(Record(record.item, facts={**record.facts, "failed": []}, seconds=record.seconds))
        for origin in origins(config):
            file = f"{origin.stage}/{origin.group}.safetensors"
            if where.get(origin.person, file) not in ("", file):
                reason = f"{origin.person} is in the store already, from {where[origin.person]}; {file} is left out"
                manifest.write(Record(f"twice-{origin.person}", "dropped", reason))


PACK = Pack()


def read_origin(config: DatasetConfig, origin: Origin) -> tuple[Tensor, float, dict[str, Any]]:
    """A person's LoRA (numel,), its teacher's loss (NaN if there is none) and what its file says of its provenance.

    Raises:
        FileNotFoundError, SafetensorError: no such file, or none that can be read.
        ValueError: the file holds other people than its record says.
    """
    path = config.stage(origin.stage) / f"{origin.group}.safetensors"
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


def base_facts(folder: Path) -> dict[str, str]:
    """Name of a base model, and a hash of samples of its U-Net's weights that tells fine-tuned models apart.

    The hash takes the size and 16 blocks of 64 KiB of every weight file: SDXL's 5 GB would take long.
    """
    digest = hashlib.sha256()
    for path in sorted((folder / "unet").glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "big"))
        with path.open("rb") as file:
            for block in range(BLOCKS):
                file.seek(size * block // BLOCKS)
                digest.update(file.read(BLOCK))
    return {"name": folder.name, "unet": digest.hexdigest()[:16]}


def _plan_path(config: DatasetConfig) -> Path:
    return config.stage(Pack.name) / "plan" / "plan.json"


def _check_form(store: LoRAStore, form: str) -> None:
    for split in store.splits():
        for shard in store.shards(split):
            for found in {line.get("form", form) for line in shard.provenance} - {form}:
                raise ValueError(
                    f"{store.folder} holds {found} LoRAs, the configuration asks for {form} ones, and the two can't be "
                    f"compared: set pack.canonical to {str(found == 'canonical').lower()}, or delete that folder and "
                    "pack again"
                )


def _make_canonical(loras: Tensor, layout: LoRALayout) -> None:
    for piece in loras.split(CANONICAL_AT_ONCE):
        piece.copy_(canonical(piece, layout))


def _similarity(config: DatasetConfig, person: str) -> float:
    """Mean face similarity of the pictures that a teacher was trained on; NaN where they were not filtered."""
    record = Manifest(config.stage("filter")).read(person)
    values: Iterable[float] = [p["similarity"] for p in record.facts.get("kept", [])] if record else []
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else float("nan")


def _record(
    item: str, split: str, people: Sequence[str], dropped: Sequence[dict[str, str]], failed: Sequence[dict[str, str]]
) -> Record:
    facts = {"split": split, "people": list(people), "dropped": list(dropped), "failed": list(failed)}
    if failed:
        return Record(
            item, "failed", f"{len(failed)} people, first {failed[0]['person']}: {failed[0]['reason']}", facts
        )
    if not people and dropped:
        return Record(item, "dropped", f"{dropped[0]['person']}: {dropped[0]['reason']}", facts)
    return Record(item, facts=facts)
