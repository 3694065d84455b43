"""Stage collect: images of any kind become people.

    collect/<person>.json                 the record; facts: images, sources, dropped, own, unread, origin, face
    collect/<person>/000.png, 000.txt     RGB images, upright; captions where the source had some
    collect/<person>/face.npy             (width,) float32, the unit-length mean embedding
    collect/<person>/faces.npy            (own, width) float32, one row per image of the person's own

Two entries whose faces are alike are one person; that shows only when all entries have been read, in `finish`. It
decides from the embeddings of each entry's own images, which it never changes, so that it can run any number of times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from difflora_core.files import replacing
from difflora_core.images import describe_passed_over, write_image
from training.lora_dataset.config import CollectConfig, DatasetConfig
from training.lora_dataset.fingerprints import Fingerprint, hash_face_models, hash_value, settings_of
from training.lora_dataset.images.entry import Entry, Source
from training.lora_dataset.images.faces import (
    assign_duplicates,
    face_side,
    largest_face,
    mean_face,
    open_faces,
    save_array,
    unit_embedding,
)
from training.lora_dataset.images.folder_writing import replacing_folder
from training.lora_dataset.images.sources import entries
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker

from .same_person import own_faces, record_duplicate, record_united, repetition

MAX_QUOTED_REASONS = 3
"""Reasons that a record's own reason quotes; all of them are among its facts."""


class Collect(Stage):
    """The stage. An item is an entry of the source, a candidate person."""

    name = "collect"

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the candidates.

        Raises:
            FileNotFoundError: The source does not exist.
            ValueError: There is nothing to collect.
        """
        return [entry.item for entry in entries(config.collect)]

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a candidate: all its images and captions, the face models and the settings of reading one candidate."""
        by_item = {entry.item: entry for entry in entries(config.collect)}
        common = settings_of(config, "collect.min_face", "collect.same_image", "collect.max_images")
        common["face models"] = hash_face_models(config.faces)

        def fingerprint(item: str) -> Fingerprint:
            return {"images": hash_value([source.content_hash() for source in by_item[item].sources]), **common}

        return fingerprint

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the face models. device is not used: `faces.provider` says where they run."""
        encoder = open_faces(config.faces)
        by_item = {entry.item: entry for entry in entries(config.collect)}
        folder = config.stage(self.name)
        return lambda item: _collect(by_item[item], folder / item, config.collect, encoder)

    def finish(self, config: DatasetConfig) -> None:
        """Merge or drop candidates that are one person.

        Raises:
            ValueError: Nobody is left.
        """
        manifest, settings = Manifest(config.stage(self.name)), config.collect
        if others := [name for entry in entries(settings) for name in entry.passed_over]:
            print(f"{settings.path}: {describe_passed_over(others)}")
        records = [record for record in manifest.records() if record.status in ("done", "dropped")]
        records = [record for record in records if record.facts.get("own")]
        if not records:
            raise ValueError(_nobody_collected(manifest))
        faces = np.stack([mean_face(own_faces(manifest.folder / record.item)) for record in records])
        owners = assign_duplicates(faces, settings.same_person)
        duplicates: dict[int, list[Record]] = {}
        for row, (owner, _) in enumerate(owners):
            if row != owner and settings.action == "merge":
                duplicates.setdefault(owner, []).append(records[row])
        for row, (owner, cosine) in enumerate(owners):
            if row == owner:
                new = record_united(records[row], duplicates.get(row, ()), manifest.folder, settings)
            else:
                new = record_duplicate(records[row], records[owner], cosine, settings)
            if new != records[row]:
                manifest.write(new)


COLLECT = Collect()


@dataclass
class _Candidate:
    """What has been read of a candidate so far."""

    kept: list[Source] = field(default_factory=list)
    """Sources of the images that can be used."""
    faces: list[np.ndarray] = field(default_factory=list)
    """Unit-length embeddings (width,) of these images."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """The others, with reasons."""


def _collect(entry: Entry, folder: Path, config: CollectConfig, encoder: FaceEncoder) -> Record:
    """Read one candidate and write the usable images to the folder."""
    with replacing_folder(folder) as partial:
        found, unread = _read_candidate(entry, partial, config, encoder)
        if found.kept:
            save_array(partial / "faces.npy", np.stack(found.faces))
            save_array(partial / "face.npy", mean_face(found.faces))
    if not found.kept:
        folder.rmdir()
    return _record(entry, found, unread)


def _read_candidate(entry: Entry, folder: Path, config: CollectConfig, encoder: FaceEncoder) -> tuple[_Candidate, int]:
    """Write a candidate's usable images to a folder; what was found, and how many images were not read."""
    found, tried = _Candidate(), 0
    for source in entry.sources:
        if config.max_images > 0 and len(found.kept) == config.max_images:
            break
        tried += 1
        try:
            image, embedding = _usable_image(source, config, encoder, found.faces)
            caption = source.caption()
        except NoFaceError:
            found.dropped.append({"source": source.name, "reason": "no face was found"})
            continue
        except ValueError as error:
            found.dropped.append({"source": source.name, "reason": str(error)})
            continue
        path = folder / f"{len(found.kept):03d}.png"
        write_image(path, image)
        if caption:
            with replacing(path.with_suffix(".txt")) as partial:
                partial.write_text(caption, encoding="utf-8")
        found.kept.append(source)
        found.faces.append(embedding)
    return found, len(entry.sources) - tried


def _usable_image(
    source: Source, config: CollectConfig, encoder: FaceEncoder, faces: Sequence[np.ndarray]
) -> tuple[Image.Image, np.ndarray]:
    """Read an image and its face's unit-length embedding (width,). faces: of the images before.

    Raises:
        NoFaceError: There is no face.
        ValueError: The image cannot be used, and why.
    """
    image = source.read()
    face = largest_face(encoder, image, source.name)
    if (side := face_side(face)) < config.min_face:
        raise ValueError(f"its face is {side:.0f} pixels wide, at least {config.min_face} are needed")
    embedding = unit_embedding(face)
    if reason := repetition(embedding, faces, config.same_image):
        raise ValueError(reason)
    return image, embedding


def _record(entry: Entry, found: _Candidate, unread: int) -> Record:
    facts: dict[str, Any] = {
        "origin": entry.origin,
        "images": [f"{number:03d}.png" for number in range(len(found.kept))],
        "sources": [source.name for source in found.kept],
        "own": len(found.kept),
        "dropped": found.dropped,
        "unread": unread,
        "passed_over": list(entry.passed_over),
    }
    if not found.kept:
        reason = _no_usable_image(found.dropped)
        if entry.passed_over:
            reason += f"; {describe_passed_over(entry.passed_over)}"
        return Record(entry.item, "dropped", reason, facts)
    return Record(entry.item, facts={**facts, "face": "face.npy"})


def _no_usable_image(dropped: Sequence[dict[str, str]]) -> str:
    if not dropped:
        return "there are no images"
    quoted = "; ".join(f"{entry['source']}: {entry['reason']}" for entry in dropped[:MAX_QUOTED_REASONS])
    more = f"; and {len(dropped) - MAX_QUOTED_REASONS} more" if len(dropped) > MAX_QUOTED_REASONS else ""
    return f"none of {len(dropped)} images can be used: {quoted}{more}"


def _nobody_collected(manifest: Manifest) -> str:
    reasons = [f"{record.item}: {record.reason}" for record in manifest.records()]
    return f"nobody was collected; the first of {len(reasons)} reasons in {manifest.folder}: " + "; ".join(
        reasons[:MAX_QUOTED_REASONS]
    )
