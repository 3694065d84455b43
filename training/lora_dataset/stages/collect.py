"""Stage 1, collect: pictures of whatever kind become people.

    collect/<person>.json                 the record; facts: pictures, sources, dropped, own, unread, origin, face
    collect/<person>/000.png, 000.txt     RGB pictures, upright; captions where the source had some
    collect/<person>/face.npy             (width,) float32, the unit-length mean embedding
    collect/<person>/faces.npy            (own, width) float32, one row per picture of the person's own

Two entries whose faces are alike are one person; that shows only when all are there, in `finish`. It decides from the
embeddings of each entry's own pictures, which it never changes, so that it may run as often as it likes.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from difflora_core.encoders import FaceEncoder, NoFaceError
from difflora_core.files import replacing
from training.lora_dataset.config import CollectConfig, DatasetConfig
from training.lora_dataset.images.faces import (
    face_side,
    first_of_each,
    largest_face,
    mean_face,
    open_faces,
    save_array,
    unit,
)
from training.lora_dataset.images.sources import Entry, Source, entries
from training.lora_dataset.manifest import Manifest, Record

SHOWN = 3  # reasons that a record quotes; all of them are among its facts


class Collect:
    """The stage."""

    name = "collect"
    gpu = False

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Candidate people. Raises FileNotFoundError or ValueError if there is nothing to collect."""
        return [entry.item for entry in entries(config.collect)]

    def worker(self, config: DatasetConfig, device: str) -> Callable[[str], Record]:
        """What reads one candidate's pictures. device is not used: `faces.provider` says where the face models run."""
        encoder = open_faces(config.faces)
        by_item = {entry.item: entry for entry in entries(config.collect)}
        folder = config.stage(self.name)
        return lambda item: _collect(by_item[item], folder / item, config.collect, encoder)

    def finish(self, config: DatasetConfig) -> None:
        """Merge or drop candidates that are one person. Raises ValueError if nobody is left."""
        manifest, settings = Manifest(config.stage(self.name)), config.collect
        records = [record for record in manifest.records() if record.status != "failed" and record.facts.get("own")]
        if not records:
            raise ValueError(_nobody(manifest))
        faces = np.stack([mean_face(_own_faces(manifest.folder / record.item)) for record in records])
        owners = first_of_each(faces, settings.same_person)
        others: dict[int, list[int]] = {}
        for row, (owner, _) in enumerate(owners):
            if row != owner:
                others.setdefault(owner, []).append(row)
        for row, (owner, cosine) in enumerate(owners):
            record = records[row]
            if row == owner:
                guests = [records[guest] for guest in others.get(row, ())] if settings.action == "merge" else []
                new = _united(record, guests, manifest.folder, settings)
            else:
                first = records[owner].item
                done = "merged into it" if settings.action == "merge" else "dropped"
                reason = f"same person as {first} (cosine {cosine:.2f}), {done}"
                new = Record(
                    record.item, "dropped", reason, {**_own_facts(record), "same_person": first}, record.seconds
                )
            if new != record:
                manifest.write(new)


COLLECT = Collect()


def _collect(entry: Entry, folder: Path, config: CollectConfig, encoder: FaceEncoder) -> Record:
    """One candidate: its usable pictures are written to the folder."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    kept: list[Source] = []
    faces: list[np.ndarray] = []
    dropped: list[dict[str, str]] = []
    tried = 0
    for source in entry.sources:
        if config.max_pictures > 0 and len(kept) == config.max_pictures:
            break
        tried += 1
        try:
            picture = source.read()
            face = largest_face(encoder, picture, source.name)
            if (side := face_side(face)) < config.min_face:
                raise ValueError(f"its face is {side:.0f} pixels wide, at least {config.min_face} are needed")
            embedding = unit(face.embedding.numpy())
            if not np.isclose(float(np.linalg.norm(embedding)), 1.0, atol=1e-3):
                raise ValueError("the recognizer gave an embedding that is zero or not a number")
            if reason := _repetition(embedding, faces, config.same_picture):
                raise ValueError(reason)
        except NoFaceError:
            dropped.append({"source": source.name, "reason": "no face was found"})
            continue
        except ValueError as error:
            dropped.append({"source": source.name, "reason": str(error)})
            continue
        name = f"{len(kept):03d}"
        picture.save(folder / f"{name}.png")
        if caption := source.caption():
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
        kept.append(source)
        faces.append(embedding)
    facts = {
        "origin": entry.origin,
        "pictures": [f"{number:03d}.png" for number in range(len(kept))],
        "sources": [source.name for source in kept],
        "own": len(kept),
        "dropped": dropped,
        "unread": len(entry.sources) - tried,
    }
    if not kept:
        shutil.rmtree(folder)
        return Record(entry.item, "dropped", _why_none(dropped), facts)
    save_array(folder / "faces.npy", np.stack(faces))
    save_array(folder / "face.npy", mean_face(faces))
    return Record(entry.item, facts={**facts, "face": "face.npy"})


def _repetition(embedding: np.ndarray, faces: Sequence[np.ndarray], threshold: float) -> str:
    """Which of the pictures before has the same face, as a reason; "" for none."""
    if not faces:
        return ""
    cosines = np.stack(faces) @ embedding
    row = int(cosines.argmax())
    return f"near-duplicate of {row:03d}.png (cosine {cosines[row]:.3f})" if cosines[row] >= threshold else ""


def _why_none(dropped: Sequence[dict[str, str]]) -> str:
    if not dropped:
        return "there are no pictures"
    quoted = "; ".join(f"{entry['source']}: {entry['reason']}" for entry in dropped[:SHOWN])
    more = f"; and {len(dropped) - SHOWN} more" if len(dropped) > SHOWN else ""
    return f"none of {len(dropped)} pictures can be used: {quoted}{more}"


def _nobody(manifest: Manifest) -> str:
    reasons = [f"{record.item}: {record.reason}" for record in manifest.records()]
    return f"nobody was collected; the first of {len(reasons)} reasons in {manifest.folder}: " + "; ".join(
        reasons[:SHOWN]
    )


def _own_faces(folder: Path) -> np.ndarray:
    """Embeddings (own, width) of a candidate's own pictures."""
    path = folder / "faces.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: remove {folder}.json and run collect again")
    return np.load(path, allow_pickle=False)


def _own_facts(record: Record) -> dict[str, Any]:
    """A candidate's facts as they were before it was united with anybody."""
    own = int(record.facts["own"])
    facts = {key: value for key, value in record.facts.items() if key not in ("same_person", "merged")}
    facts |= {key: facts[key][:own] for key in ("pictures", "sources")}
    return facts | {"dropped": [entry for entry in facts["dropped"] if "from" not in entry]}


def _united(record: Record, guests: Sequence[Record], folder: Path, config: CollectConfig) -> Record:
    """A person's record with the pictures of `guests`, who are the same person; they are copied.

    It is built from everybody's own pictures, hence the same however often it is done; pictures of an earlier decision
    that was another are removed. folder: of the stage.
    """
    facts, home = _own_facts(record), folder / record.item
    faces = list(_own_faces(home))
    copies: list[tuple[Path, Path]] = []
    for guest in guests:
        theirs = _own_facts(guest)
        rows = zip(theirs["pictures"], theirs["sources"], _own_faces(folder / guest.item), strict=True)
        for file, source, face in rows:
            if 0 < config.max_pictures <= len(faces):
                reason = f"{config.max_pictures} pictures are enough"
            else:
                reason = _repetition(face, faces, config.same_picture)
            if reason:
                facts["dropped"].append({"source": source, "reason": reason, "from": guest.item})
                continue
            facts["pictures"].append(f"{len(faces):03d}.png")
            facts["sources"].append(source)
            copies.append((folder / guest.item / file, home / facts["pictures"][-1]))
            faces.append(face)
    if guests:
        facts["merged"] = [guest.item for guest in guests]
    new = Record(record.item, facts=facts, seconds=record.seconds)
    if new != record:
        for source, target in copies:
            _copy(source, target)
        for path in home.glob("[0-9]*.*"):
            if f"{path.stem}.png" not in facts["pictures"]:
                path.unlink()
        save_array(home / "face.npy", mean_face(faces))
    return new


def _copy(picture: Path, target: Path) -> None:
    """Copy a picture and its caption, whole or not at all."""
    captions = picture.with_suffix(".txt"), target.with_suffix(".txt")
    if not captions[0].exists():
        captions[1].unlink(missing_ok=True)
    for source, path in ((picture, target), captions):
        if source.exists():
            with replacing(path) as partial:
                shutil.copyfile(source, partial)
