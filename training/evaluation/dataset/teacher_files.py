"""Teachers as LoRA files: a dataset's store has many LoRAs in one file, and methods read a file for each person."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from difflora_core.files import open_tensors, read_shapes
from difflora_core.lora.lora import METADATA_KEY, LoRA
from training.lora_dataset.fingerprints import hash_tensor
from training.store.lora_store import LoRAStore

from ..people_folders import EvaluatedPerson
from ..settings import EvaluationSettings

TEACHERS = "teachers"
"""Folder in the output."""


def with_teacher_files(settings: EvaluationSettings, people: Sequence[EvaluatedPerson]) -> EvaluationSettings:
    """Write the LoRAs of evaluated people out of stores; return settings whose methods name these files.

    Args:
        settings: In which the path of a method of the kind lora may be a store.
        people: Whose LoRAs are written.

    Raises:
        FileNotFoundError: Somebody has no LoRA in a store.
        ValueError: A store is damaged.
        OSError: The disk is full.
    """
    methods = dict(settings.methods)
    for name, method in methods.items():
        if method.kind == "lora" and method.path is not None and (method.path / "layout.json").is_file():
            folder = settings.output / TEACHERS / name
            write_teachers(LoRAStore.open(method.path), folder, [person.name for person in people])
            methods[name] = replace(method, path=folder)
    return replace(settings, methods=methods)


def write_teachers(store: LoRAStore, folder: Path, people: Sequence[str]) -> None:
    """Write folder/PERSON.safetensors, unless it holds the same LoRA.

    Raises:
        FileNotFoundError: Somebody has no LoRA in the store.
        ValueError: The store, or a file that is to be replaced, is damaged.
        OSError: The disk is full.
    """
    entries = {str(entry.person): entry for entry in store.entries()}
    if missing := [person for person in people if person not in entries]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(people)} people have no LoRA in {store.folder}, first {missing[0]}"
        )
    for person in people:
        entry = entries[person]
        with open_tensors(entry.shard) as file:
            flat = file.get_slice("loras")[entry.row]
        # Without the store's place: a copied workspace has the same files, from which the same images were made
        path, origin = folder / f"{person}.safetensors", {"lora": hash_tensor(flat)}
        if not path.exists() or read_shapes(path)[1].get(METADATA_KEY) != json.dumps(origin):
            LoRA(flat, store.layout, origin).save(path)
