"""Records of collected entries that are one person: the first takes over the others' images, or they are dropped.

Every decision is built from each entry's own images, and is therefore the same however often it is made.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from difflora_core.files import replacing
from training.lora_dataset.config import CollectConfig
from training.lora_dataset.fingerprints import hash_files
from training.lora_dataset.images.faces import mean_face, read_array, save_array
from training.lora_dataset.manifest import Record


def own_faces(folder: Path) -> np.ndarray:
    """Read the embeddings (own, width) of an entry's own images.

    Raises:
        FileNotFoundError: They are missing.
        ValueError: Their file is damaged.
    """
    path = folder / "faces.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: remove {folder}.json and run collect again")
    return read_array(path, 2)


def repetition(embedding: np.ndarray, faces: Sequence[np.ndarray], threshold: float) -> str:
    """Return which of the images before has the same face, as a reason; "" for none."""
    if not faces:
        return ""
    cosines = np.stack(faces) @ embedding
    row = int(cosines.argmax())
    return f"near-duplicate of {row:03d}.png (cosine {cosines[row]:.3f})" if cosines[row] >= threshold else ""


def record_duplicate(record: Record, first: Record, cosine: float, config: CollectConfig) -> Record:
    """Make the record of an entry that is the same person as an earlier one."""
    outcome = "merged into it" if config.action == "merge" else "dropped"
    reason = f"same person as {first.item} (cosine {cosine:.2f}), {outcome}"
    facts = {**_own_facts(record), "same_person": first.item}
    return replace(record, status="dropped", reason=reason, facts=facts)


def record_united(record: Record, duplicates: Sequence[Record], folder: Path, config: CollectConfig) -> Record:
    """Make a person's record with the images of entries that are the same person, and copy these images.

    Images of an earlier, different decision are removed.

    Args:
        record: The person's.
        duplicates: Records of the others.
        folder: Of the stage.
        config: Of the stage.
    """
    facts, home = _own_facts(record), folder / record.item
    faces = list(own_faces(home))
    copies: list[tuple[Path, Path]] = []
    for other in duplicates:
        others = _own_facts(other)
        rows = zip(others["images"], others["sources"], own_faces(folder / other.item), strict=True)
        for file, source, face in rows:
            if 0 < config.max_images <= len(faces):
                reason = f"{config.max_images} images are enough"
            else:
                reason = repetition(face, faces, config.same_image)
            if reason:
                facts["dropped"].append({"source": source, "reason": reason, "from": other.item})
                continue
            facts["images"].append(f"{len(faces):03d}.png")
            facts["sources"].append(source)
            copies.append((folder / other.item / file, home / facts["images"][-1]))
            faces.append(face)
    if duplicates:
        facts["merged"] = [other.item for other in duplicates]
    new = replace(record, status="done", reason="", facts=facts)
    if new != record or any(_differ(source, target) for source, target in copies):
        save_array(home / "face.npy", mean_face(faces))
        _write_images(copies, home, facts["images"])  # last: what a killed run has not copied still differs
    return new


def _own_facts(record: Record) -> dict[str, Any]:
    """An entry's facts as they were before it was united with another."""
    own = int(record.facts["own"])
    facts = {key: value for key, value in record.facts.items() if key not in ("same_person", "merged")}
    facts |= {key: facts[key][:own] for key in ("images", "sources")}
    return facts | {"dropped": [entry for entry in facts["dropped"] if "from" not in entry]}


def _write_images(copies: Sequence[tuple[Path, Path]], home: Path, names: Sequence[str]) -> None:
    """Copy images into a person's folder and remove those that are not among the names."""
    for source, target in copies:
        _copy(source, target)
    for path in home.glob("[0-9]*.*"):
        if f"{path.stem}.png" not in names:
            path.unlink()


def _differ(image: Path, target: Path) -> bool:
    """Whether an image or its caption is another than its copy: the entry has been collected again since."""
    one, other = ([path, path.with_suffix(".txt")] for path in (image, target))
    return hash_files(one) != hash_files(other)


def _copy(image: Path, target: Path) -> None:
    """Copy an image and its caption, whole or not at all."""
    captions = image.with_suffix(".txt"), target.with_suffix(".txt")
    if not captions[0].exists():
        captions[1].unlink(missing_ok=True)
    for source, path in ((image, target), captions):
        if source.exists():
            with replacing(path) as partial:
                shutil.copyfile(source, partial)
