"""Stage pack: trained and imported LoRAs become shards of the store, split into train, validation and test.

An item is a shard. People who are in the store stay where they are: more people later only mean more shards, and a
shard is written again, in place, when one of its LoRAs is another now or not wanted any more.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from difflora_core.fields import read_json_file
from difflora_core.files import replacing
from difflora_core.lora.canonical_form import canonical
from difflora_core.lora.layout import LoRALayout
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import configured_fingerprint, configured_layout
from training.lora_dataset.fingerprints import Fingerprint
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker, done_before
from training.store.lora_store import LoRAStore
from training.store.loras import MAX_SIZE, relative_sizes

from .pack_plan import MEASURED, Origin, choose_origins, make_plan, origins, read_origin, stored_files


class Pack(Stage):
    """The stage. Its plan, who goes into which shard, is in pack/plan/plan.json: all workers follow the same one."""

    name = "pack"
    lists_all = False

    def begin(self, config: DatasetConfig) -> None:
        """Write the plan.

        Records of shards that somebody deleted become failed ones: their people are packed again.

        Raises:
            ValueError: The store was packed with the other setting of `canonical`.
        """
        store, manifest = _open_store(config), Manifest(config.stage(self.name))
        _check_form(store, _form(config))
        stored = stored_files(store)
        for record in list(manifest.records()):
            if record.status == "done" and not stored.keys() >= set(record.facts["people"]):
                manifest.write(replace(record, status="failed", reason="its shard is not in the store any more"))
        with replacing(_plan_path(config)) as partial:
            partial.write_text(json.dumps(self._plan(config), ensure_ascii=False), encoding="utf-8")

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the shards that are to be written.

        Raises:
            ValueError: There is no LoRA yet, neither trained nor imported.
        """
        plan = self._plan(config)
        if not plan and next(origins(config), None) is None and not _open_store(config).splits():
            done_before(config, "dreambooth")
        return list(plan)

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a shard: its people's LoRAs."""
        plan = self._plan(config)
        return lambda item: {f"LoRA of {entry['person']}": entry["lora"] for entry in plan[item]["people"]}

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Open the store and read the plan. `device` is not used."""
        store = _open_store(config)
        plan = read_json_file(_plan_path(config))
        teacher = {
            "source": "dreambooth",
            "base": configured_fingerprint(config),
            "teacher": asdict(config.dreambooth),
        }

        def pack_shard(item: str) -> Record:
            split, replaced = plan[item]["split"], plan[item]["replaced"]
            people = [Origin(**entry) for entry in plan[item]["people"]]
            shard = _read_shard(config, people, store.layout, {"form": _form(config)}, teacher)
            _write_shard(store, split, shard, store.folder / replaced if replaced else None)
            return _shard_record(item, split, shard.names, shard.dropped, shard.failed)

        return pack_shard

    def finish(self, config: DatasetConfig) -> None:
        """Make the records agree with the store.

        A shard whose writer was killed before its record gets one, a failure that a later shard repaired is settled,
        and a LoRA of a person who has another one in the store is recorded.
        """
        store, manifest = _open_store(config), Manifest(config.stage(self.name))
        _record_shards(store, manifest)
        stored = stored_files(store)
        _, others = choose_origins(config, stored)
        twice = {f"twice-{origin.person}": origin for origin in others if origin.person in stored}
        for record in list(manifest.records()):
            left = [entry for entry in record.facts.get("failed", []) if entry["person"] not in stored]
            if record.status == "failed" and record.facts and not left:
                manifest.write(replace(record, status="done", reason="", facts={**record.facts, "failed": []}))
            elif record.item.startswith("twice-") and record.item not in twice:
                manifest.remove(record.item)
        for item, origin in twice.items():
            first = f"{origin.person} is in the store already, from {stored[origin.person]}"
            manifest.write(Record(item, "dropped", f"{first}; {origin.file} is left out"))

    def _plan(self, config: DatasetConfig) -> dict[str, dict[str, Any]]:
        dropped = {
            entry["person"]: entry.get("lora", "")
            for record in Manifest(config.stage(self.name)).records()
            for entry in record.facts.get("dropped", [])
        }
        return make_plan(config, _open_store(config), dropped)


PACK = Pack()


def _plan_path(config: DatasetConfig) -> Path:
    return config.stage(Pack.name) / "plan" / "plan.json"


def _open_store(config: DatasetConfig) -> LoRAStore:
    return LoRAStore(config.store, configured_layout(config))


@dataclass
class _Shard:
    """What is written as one shard, and what is not."""

    loras: Tensor
    """(people, numel) float32; a row for each of `names`, the rest unused."""
    names: list[str] = field(default_factory=list)
    """Whose they are."""
    measured: list[dict[str, float]] = field(default_factory=list)
    """What was measured of their LoRAs, by `MEASURED`, NaN where unknown."""
    provenance: list[dict[str, Any]] = field(default_factory=list)
    """Where they come from."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """People whose LoRA is not finite, or far larger than the others, with reasons."""
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
            lora, measured, provenance = read_origin(config, origin)
            layout.check(lora)
        except (FileNotFoundError, ValueError, SafetensorError) as error:
            shard.failed.append({"person": origin.person, "reason": f"{type(error).__name__}: {error}"})
            continue
        if not lora.isfinite().all():
            reason = "its LoRA holds NaN or infinite weights: train it again and delete this record"
            shard.dropped.append({"person": origin.person, "reason": reason, "lora": origin.lora})
            continue
        if origin.stage != "store":
            own = teacher if origin.stage == "dreambooth" else {}
            provenance = {**own, **provenance, "file": origin.file, "lora": origin.lora, **common}
            measured = {**measured, "similarity": _similarity(config, origin.person)}
            lora = canonical(lora[None], layout)[0] if config.pack.canonical else lora
        shard.loras[len(shard.names)] = lora
        shard.names.append(origin.person)
        shard.measured.append(measured)
        shard.provenance.append(provenance)
    _drop_far_larger(shard, {origin.person: origin.lora for origin in people})
    return shard


def _drop_far_larger(shard: _Shard, digests: Mapping[str, str]) -> None:
    """Drop LoRAs whose training diverged without ending in NaN: all statistics of the store would be about them."""
    if not shard.names:
        return
    kept = []
    for row, (person, size) in enumerate(
        zip(shard.names, relative_sizes(shard.loras[: len(shard.names)]), strict=True)
    ):
        if size <= MAX_SIZE:
            kept.append(row)
        else:
            reason = f"its LoRA is {size:.3g} times as large as the others: train it again and delete this record"
            shard.dropped.append({"person": person, "reason": reason, "lora": digests[person]})
    shard.loras = shard.loras[kept]
    shard.names = [shard.names[row] for row in kept]
    shard.measured = [shard.measured[row] for row in kept]
    shard.provenance = [shard.provenance[row] for row in kept]


def _write_shard(store: LoRAStore, split: str, shard: _Shard, replaced: Path | None) -> None:
    """Write a shard in place of another, if there is one. Where nobody is left, that one is removed.

    A shard of which a LoRA could not be read stays as it is.
    """
    if replaced is not None and shard.failed:
        return
    if shard.names:
        columns = {name: torch.tensor([line.get(name, float("nan")) for line in shard.measured]) for name in MEASURED}
        loras = shard.loras[: len(shard.names)]
        store.add(split, shard.names, loras, provenance=shard.provenance, replaced=replaced, **columns)
    elif replaced is not None:
        store.remove(replaced)


def _similarity(config: DatasetConfig, person: str) -> float:
    """Mean face similarity of the images that a teacher was trained on; NaN where they were not filtered."""
    record = Manifest(config.stage("filter")).read(person)
    found = [image["similarity"] for image in record.facts.get("kept", [])] if record else []
    values = [value for value in found if value is not None]
    return fmean(values) if values else float("nan")


def _form(config: DatasetConfig) -> str:
    return "canonical" if config.pack.canonical else "raw"


def _check_form(store: LoRAStore, form: str) -> None:
    for split in store.splits():
        for shard in store.shards(split):
            for found in {line.get("form", form) for line in shard.provenance} - {form}:
                raise ValueError(
                    f"{store.folder} holds {found} LoRAs, the configuration says {form}, and the two cannot be "
                    f"compared: set pack.canonical to {str(found == 'canonical').lower()}, or delete that folder and "
                    "pack again"
                )


def _record_shards(store: LoRAStore, manifest: Manifest) -> None:
    """Record the store's shards that have no record, and remove records of shards that were replaced."""
    found = [(split, shard) for split in store.splits() for shard in store.shards(split)]
    shards = {tuple(map(str, shard.people)): (split, shard) for split, shard in found}
    listed = set()
    for record in list(manifest.records()):
        people = tuple(record.facts.get("people", []))
        listed.add(people)
        if record.status == "done" and people not in shards and not record.facts.get("dropped"):
            manifest.remove(record.item)
    for people, (split, shard) in shards.items():
        if people not in listed:
            # the fingerprint that the killed run would have recorded
            inputs = {
                f"LoRA of {who}": line.get("lora", "") for who, line in zip(people, shard.provenance, strict=False)
            }
            record = _shard_record(f"{split}-{people[0]}", split, people, [], [])
            manifest.write(replace(record, inputs=inputs))


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
