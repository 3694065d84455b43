"""Stage pack: trained and imported LoRAs become shards of the store, split into train, validation and test.

An item is a shard. People who are in the store stay where they are: more people later only mean more shards.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from difflora_core.files import replacing
from difflora_core.lora.canonical_form import canonical
from difflora_core.lora.layout import LoRALayout
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import configured_fingerprint, configured_layout
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Worker
from training.store.lora_store import LoRAStore

from .pack_plan import Origin, make_plan, origins, read_origin

CANONICAL_BATCH = 8
"""LoRAs that are brought to canonical form at once; the arithmetic is float64."""


class Pack:
    """The stage. Its plan, who goes into which shard, is in pack/plan/plan.json: all workers follow the same one."""

    name = "pack"
    gpu = False

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Write the plan and return its shards, those that are still to be written.

        Records of shards that somebody deleted become failed ones: their people are packed again.
        """
        plan = make_plan(config, _settled_people(config))
        with replacing(_plan_path(config)) as partial:
            partial.write_text(json.dumps(plan, ensure_ascii=False), encoding="utf-8")
        return list(plan)

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Open the store and read the plan. `device` is not used.

        Raises:
            ValueError: The store was packed with the other setting of `canonical`.
        """
        store = LoRAStore(config.stage("store"), configured_layout(config))
        form = "canonical" if config.pack.canonical else "raw"
        _check_form(store, form)
        plan = json.loads(_plan_path(config).read_text(encoding="utf-8"))
        teacher = {
            "source": "dreambooth",
            "base": configured_fingerprint(config),
            "teacher": asdict(config.dreambooth),
        }

        def pack_shard(item: str) -> Record:
            people = [Origin(**entry) for entry in plan[item]["people"]]
            shard = _read_shard(config, people, store.layout, {"form": form}, teacher)
            _write_shard(config, store, plan[item]["split"], shard)
            return _shard_record(item, plan[item]["split"], shard.names, shard.dropped, shard.failed)

        return pack_shard

    def finish(self, config: DatasetConfig) -> None:
        """Make the records agree with the store.

        A shard whose writer was killed before its record gets one, a failure that a later shard repaired is settled,
        and a person who was found twice is recorded.
        """
        store, manifest = LoRAStore(config.stage("store"), configured_layout(config)), Manifest(config.stage(self.name))
        stored = _record_shards(store, manifest)
        for record in list(manifest.records()):
            left = [entry for entry in record.facts.get("failed", []) if entry["person"] not in stored]
            if record.status == "failed" and record.facts and not left:
                manifest.write(Record(record.item, facts={**record.facts, "failed": []}, seconds=record.seconds))
        for origin in origins(config):
            if stored.get(origin.person, origin.file) not in ("", origin.file):
                first = f"{origin.person} is in the store already, from {stored[origin.person]}"
                manifest.write(Record(f"twice-{origin.person}", "dropped", f"{first}; {origin.file} is left out"))


PACK = Pack()


def _plan_path(config: DatasetConfig) -> Path:
    return config.stage(Pack.name) / "plan" / "plan.json"


def _settled_people(config: DatasetConfig) -> set[Any]:
    """People who need no packing: they are in the store, or were dropped. Records of lost shards become failed."""
    store, manifest = LoRAStore(config.stage("store"), configured_layout(config)), Manifest(config.stage(Pack.name))
    settled = {person for split in store.splits() for shard in store.shards(split) for person in shard.people}
    for record in list(manifest.records()):
        if record.status == "done" and not settled.issuperset(record.facts["people"]):
            manifest.write(replace(record, status="failed", reason="its shard is not in the store any more"))
    return settled | {entry["person"] for record in manifest.records() for entry in record.facts.get("dropped", [])}


@dataclass
class _Shard:
    """What is written as one shard, and what is not."""

    loras: Tensor
    """(people, numel) float32; a row for each of `names`, the rest unused."""
    names: list[str] = field(default_factory=list)
    """Whose they are."""
    losses: list[float] = field(default_factory=list)
    """Their teachers' losses, NaN where unknown."""
    provenance: list[dict[str, Any]] = field(default_factory=list)
    """Where they come from."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """People whose LoRA is not finite, with reasons."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """People whose LoRA cannot be read, with reasons."""


def _read_shard(
    config: DatasetConfig,
    people: Sequence[Origin],
    layout: LoRALayout,
    common: Mapping[str, Any],
    teacher: Mapping[str, Any],
) -> _Shard:
    """Read the LoRAs of a shard. common: provenance of all LoRAs. teacher: provenance of those trained here."""
    shard = _Shard(torch.empty(len(people), layout.numel))
    for origin in people:
        try:
            lora, loss, provenance = read_origin(config, origin)
            layout.check(lora)
        except (FileNotFoundError, ValueError, SafetensorError) as error:
            shard.failed.append({"person": origin.person, "reason": f"{type(error).__name__}: {error}"})
            continue
        if not lora.isfinite().all():
            reason = "its LoRA holds NaN or infinite weights: train it again and delete this record"
            shard.dropped.append({"person": origin.person, "reason": reason})
            continue
        shard.loras[len(shard.names)] = lora
        shard.names.append(origin.person)
        shard.losses.append(loss)
        own = teacher if origin.stage == "dreambooth" else {}
        shard.provenance.append({**own, **provenance, "file": origin.file, **common})
    return shard


def _write_shard(config: DatasetConfig, store: LoRAStore, split: str, shard: _Shard) -> None:
    """Write a shard, unless nobody is in it."""
    if not shard.names:
        return
    loras = shard.loras[: len(shard.names)]
    if config.pack.canonical:
        for part in loras.split(CANONICAL_BATCH):
            part.copy_(canonical(part, store.layout))
    measured = {
        "loss": torch.tensor(shard.losses),
        "similarity": torch.tensor([_similarity(config, name) for name in shard.names]),
    }
    store.add(split, shard.names, loras, provenance=shard.provenance, **measured)


def _similarity(config: DatasetConfig, person: str) -> float:
    """Mean face similarity of the images that a teacher was trained on; NaN where they were not filtered."""
    record = Manifest(config.stage("filter")).read(person)
    found = [image["similarity"] for image in record.facts.get("kept", [])] if record else []
    values = [value for value in found if value is not None]
    return fmean(values) if values else float("nan")


def _check_form(store: LoRAStore, form: str) -> None:
    for split in store.splits():
        for shard in store.shards(split):
            for found in {line.get("form", form) for line in shard.provenance} - {form}:
                raise ValueError(
                    f"{store.folder} holds {found} LoRAs, the configuration says {form}, and the two cannot be "
                    f"compared: set pack.canonical to {str(found == 'canonical').lower()}, or delete that folder and "
                    "pack again"
                )


def _record_shards(store: LoRAStore, manifest: Manifest) -> dict[Any, str]:
    """Record the store's shards that have no record; the file that each person's LoRA comes from, "" if unknown."""
    stored: dict[Any, str] = {}
    listed = {person for record in manifest.records() for person in record.facts.get("people", [])}
    for split in store.splits():
        for shard in store.shards(split):
            if not listed & set(shard.people):
                people = [str(person) for person in shard.people]
                manifest.write(_shard_record(f"{split}-{people[0]}", split, people, [], []))
            files = [line.get("file", "") for line in shard.provenance] or [""] * len(shard.people)
            stored |= dict(zip(shard.people, files, strict=True))
    return stored


def _shard_record(
    item: str, split: str, people: Sequence[str], dropped: Sequence[dict[str, str]], failed: Sequence[dict[str, str]]
) -> Record:
    facts = {"split": split, "people": list(people), "dropped": list(dropped), "failed": list(failed)}
    if failed:
        reason = f"{len(failed)} people, first {failed[0]['person']}: {failed[0]['reason']}"
        return Record(item, "failed", reason, facts)
    if not people and dropped:
        return Record(item, "dropped", f"{dropped[0]['person']}: {dropped[0]['reason']}", facts)
    return Record(item, facts=facts)
