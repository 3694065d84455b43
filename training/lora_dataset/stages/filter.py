"""Stage filter: images that would teach the wrong thing are dropped, each with its reasons.

filter/<person>.json      facts: kept (most similar first) and dropped, both with measurements; reasons of the dropped
filter/histograms.png     the measurements of all images, with the thresholds
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from difflora_core.images import read_image
from training.engine.charts import Histogram, draw_histograms
from training.lora_dataset.config import DatasetConfig, FilterConfig
from training.lora_dataset.fingerprints import (
    Fingerprint,
    hash_face_models,
    hash_file,
    hash_files,
    hash_value,
    settings_of,
)
from training.lora_dataset.images.faces import (
    face_side,
    head_pose,
    largest_face,
    open_faces,
    person_embedding,
    sharpness,
    unit_embedding,
)
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker, done_before


@dataclass(frozen=True)
class FaceMeasurements:
    """What is measured of an image's largest face."""

    faces: int
    """How many there are in the image."""
    side: float
    """The shorter side of the face's box in pixels."""
    sharpness: float
    """See `faces.sharpness`."""
    similarity: float
    """Cosine with the person."""
    yaw: float
    """Degrees, see `faces.head_pose`."""
    pitch: float
    """Degrees, see `faces.head_pose`."""
    quarter_turns: int = 0
    """By how many the image has to be turned counterclockwise for the face to be upright."""


class Filter(Stage):
    """The stage. An item is a person."""

    name = "filter"

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the people of whom there are images.

        Raises:
            ValueError: There are none.
        """
        return done_before(config, "generate")

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a person: images with captions, mean face, face models and all thresholds."""
        generated = Manifest(config.stage("generate"))
        common = settings_of(config, *(f"filter.{entry.name}" for entry in fields(FilterConfig)))
        common["face models"] = hash_face_models(config.faces)

        def fingerprint(item: str) -> Fingerprint:
            record = generated.read(item)
            images = record.facts["images"] if record else []
            paths = [config.workspace / image["file"] for image in images]
            face = config.stage("collect") / item / "face.npy"
            return {
                "images": hash_files(paths),
                "captions": hash_value([[image["file"], image["caption"]] for image in images]),
                "mean face": hash_file(face),
                **common,
            }

        return fingerprint

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the face models. device is not used: `faces.provider` says where they run."""
        encoder = open_faces(config.faces)
        return lambda item: _filter(item, config, encoder)

    def finish(self, config: DatasetConfig) -> None:
        """Draw the histograms."""
        images = [
            entry
            for record in Manifest(config.stage(self.name)).records()
            if record.status != "gone"
            for group in ("kept", "dropped")
            for entry in record.facts.get(group, ())
            if "similarity" in entry
        ]
        draw_histograms(config.stage(self.name) / "histograms.png", _histograms(images, config.filter))


FILTER = Filter()


@dataclass
class _Outcome:
    """One person's images so far."""

    passed: list[tuple[dict[str, Any], np.ndarray]] = field(default_factory=list)
    """Entries and unit-length embeddings of images that pass every threshold."""
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """Entries with reasons."""


def _filter(item: str, config: DatasetConfig, encoder: FaceEncoder) -> Record:
    """Filter one person's images."""
    generated = Manifest(config.stage("generate")).read(item)
    if generated is None:
        raise FileNotFoundError(f"generate has no record of {item}: run the stage `generate` first")
    person, settings, outcome = person_embedding(config, item), config.filter, _Outcome()
    for image in generated.facts["images"]:
        _filter_image(image, person, config, encoder, outcome)
    kept = _drop_repetitions(outcome, settings.same_image)
    facts = {"kept": kept, "dropped": outcome.dropped}
    if len(kept) >= settings.min_images:
        return Record(item, facts=facts)
    kinds = Counter(str(entry["kind"]) for entry in outcome.dropped).most_common()
    why = ", ".join(f"{count} × {kind}" for kind, count in kinds) or "none was dropped"
    total = len(generated.facts["images"])
    reason = f"{len(kept)} of {total} images are left, at least {settings.min_images} are needed: {why}"
    return Record(item, "dropped", reason, facts)


def _filter_image(
    image: Mapping[str, Any], person: np.ndarray, config: DatasetConfig, encoder: FaceEncoder, outcome: _Outcome
) -> None:
    """Measure one image and add it to the outcome."""
    entry = {"file": image["file"], "caption": image["caption"]}
    try:
        measured, embedding = measure_face(config.workspace / image["file"], person, encoder)
    except NoFaceError:
        outcome.dropped.append(entry | {"reason": "no face was found", "kind": "no face"})
        return
    except ValueError as error:
        outcome.dropped.append(entry | {"reason": str(error), "kind": "unreadable"})
        return
    entry |= asdict(measured)
    if failed := failed_thresholds(measured, config.filter):
        outcome.dropped.append(entry | {"reason": "; ".join(failed.values()), "kind": next(iter(failed))})
    else:
        outcome.passed.append((entry, embedding))


def measure_face(path: Path, person: np.ndarray, encoder: FaceEncoder) -> tuple[FaceMeasurements, np.ndarray]:
    """Measure an image's largest face.

    Args:
        path: Of the image.
        person: Unit-length embedding (width,) of the person.
        encoder: Of faces.

    Returns:
        The measurements, and the face's unit-length embedding (width,).

    Raises:
        NoFaceError: There is no face.
        ValueError: The image cannot be read, or the face's embedding is zero or not finite.
        RuntimeError: The person's embedding is of another face model.
    """
    face = largest_face(encoder, read_image(path), str(path))
    embedding = unit_embedding(face)
    if embedding.shape != person.shape:
        raise RuntimeError(
            f"the person's embedding is {len(person)} wide, this face model's {len(embedding)}: `faces.pack` was "
            "changed after collect"
        )
    assert face.landmarks is not None
    yaw, pitch = head_pose(face.landmarks)
    similarity = float(embedding @ person)
    size, turns = face_side(face), face.quarter_turns
    return FaceMeasurements(len(face.boxes), size, sharpness(face.crop), similarity, yaw, pitch, turns), embedding


def failed_thresholds(image: FaceMeasurements, settings: FilterConfig) -> dict[str, str]:
    """Return every threshold that an image fails: a reason per kind, none for a good image."""
    found = {}
    if settings.several_faces and image.faces > 1:
        found["several faces"] = f"{image.faces} faces"
    if image.side < settings.min_face:
        found["small face"] = f"face of {image.side:.0f} pixels, below {settings.min_face}"
    if image.sharpness < settings.min_sharpness:
        found["blurred"] = f"sharpness {image.sharpness:.0f}, below {settings.min_sharpness:g}"
    if image.similarity < settings.min_similarity:
        found["unlike the person"] = f"similarity {image.similarity:.2f}, below {settings.min_similarity:g}"
    if image.quarter_turns:
        found["not upright"] = f"the image has to be turned by {90 * image.quarter_turns}° counterclockwise"
    if abs(image.yaw) > settings.max_yaw:
        found["turned"] = f"yaw {image.yaw:+.0f}°, more than {settings.max_yaw:g}"
    if abs(image.pitch) > settings.max_pitch:
        found["nodding"] = f"pitch {image.pitch:+.0f}°, more than {settings.max_pitch:g}"
    return found


def _drop_repetitions(outcome: _Outcome, threshold: float) -> list[dict[str, Any]]:
    """Return the images that are kept, the most similar to the person first; near-duplicates of these are dropped."""
    kept: list[dict[str, Any]] = []
    faces: list[np.ndarray] = []
    for entry, embedding in sorted(outcome.passed, key=lambda pair: -pair[0]["similarity"]):
        cosines = np.stack(faces) @ embedding if faces else np.zeros(1, np.float32)
        row = int(cosines.argmax())
        if cosines[row] > threshold:
            reason = f"near-duplicate of {kept[row]['file']} (cosine {cosines[row]:.3f})"
            outcome.dropped.append(entry | {"reason": reason, "kind": "near-duplicate"})
        else:
            kept.append(entry)
            faces.append(embedding)
    return kept


def _histograms(images: Sequence[Mapping[str, Any]], settings: FilterConfig) -> list[Histogram]:
    def values(name: str) -> list[float]:
        return [float(entry[name]) for entry in images]

    yaw, pitch = ([abs(value) for value in values(name)] for name in ("yaw", "pitch"))
    return [
        Histogram("face, pixels of the shorter side", values("side"), minimum=settings.min_face),
        Histogram("sharpness, variance of the Laplacian", values("sharpness"), minimum=settings.min_sharpness),
        Histogram("cosine with the person", values("similarity"), minimum=settings.min_similarity),
        Histogram("yaw, degrees to either side", yaw, maximum=settings.max_yaw),
        Histogram("pitch, degrees up or down", pitch, maximum=settings.max_pitch),
        Histogram("faces in the image", values("faces"), maximum=1 if settings.several_faces else None),
    ]
