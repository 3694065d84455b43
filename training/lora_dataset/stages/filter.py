"""Stage 3, filter: pictures that would teach the wrong thing are dropped, each with its reasons.

filter/<person>.json      facts: kept (best first) and dropped, both with what was measured; reasons of the dropped
filter/histograms.png     what was measured of all pictures, and where the thresholds are
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difflora_core.encoders import FaceEncoder, NoFaceError
from difflora_core.images import read_picture
from training.lora_dataset.config import DatasetConfig, FilterConfig
from training.lora_dataset.images.faces import (
    face_side,
    head_pose,
    largest_face,
    open_faces,
    person_embedding,
    sharpness,
    unit,
)
from training.lora_dataset.images.histograms import Histogram, draw_histograms
from training.lora_dataset.manifest import Manifest, Record


@dataclass(frozen=True)
class Measured:
    """What is known of a picture's largest face.

    faces: how many there are. side: of its box, the shorter one, in pixels. sharpness: see `faces.sharpness`.
    similarity: cosine with the person. yaw, pitch: degrees, see `faces.head_pose`.
    """

    faces: int
    side: float
    sharpness: float
    similarity: float
    yaw: float
    pitch: float


class Filter:
    """The stage."""

    name = "filter"
    gpu = False

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """The people of whom there are pictures. Raises ValueError if generate has left none."""
        people = Manifest(config.stage("generate")).done()
        if not people:
            raise ValueError(f"{config.stage('generate')} has nobody's pictures: run the stage `generate` first")
        return people

    def worker(self, config: DatasetConfig, device: str) -> Callable[[str], Record]:
        """What judges one person's pictures. device is not used: `faces.provider` says where the face models run."""
        encoder = open_faces(config.faces)
        return lambda item: _judge(item, config, encoder)

    def finish(self, config: DatasetConfig) -> None:
        """Draw the histograms."""
        pictures = [
            entry
            for record in Manifest(config.stage(self.name)).records()
            for group in ("kept", "dropped")
            for entry in record.facts.get(group, ())
            if "similarity" in entry
        ]
        draw_histograms(_histograms(pictures, config.filter), config.stage(self.name) / "histograms.png")


FILTER = Filter()


def _judge(item: str, config: DatasetConfig, encoder: FaceEncoder) -> Record:
    """One person's record."""
    generated = Manifest(config.stage("generate")).read(item)
    if generated is None:
        raise FileNotFoundError(f"generate has no record of {item}: run the stage `generate` first")
    person = person_embedding(config, item)
    settings = config.filter
    passed: list[tuple[dict[str, Any], np.ndarray]] = []
    dropped: list[dict[str, Any]] = []
    for picture in generated.facts["pictures"]:
        entry = {"file": picture["file"], "caption": picture["caption"]}
        try:
            measured, embedding = measure(config.workspace / picture["file"], person, encoder)
        except NoFaceError:
            dropped.append(entry | {"reason": "no face was found", "kind": "no face"})
            continue
        except ValueError as error:
            dropped.append(entry | {"reason": str(error), "kind": "unreadable"})
            continue
        entry |= asdict(measured)
        if objections := object_to(measured, settings):
            dropped.append(entry | {"reason": "; ".join(objections.values()), "kind": next(iter(objections))})
        else:
            passed.append((entry, embedding))
    kept = _without_repetitions(passed, settings.same_picture, dropped)
    facts = {"kept": kept, "dropped": dropped}
    total = len(generated.facts["pictures"])
    if len(kept) < settings.min_pictures:
        kinds = Counter(str(entry["kind"]) for entry in dropped).most_common()
        why = ", ".join(f"{count} × {kind}" for kind, count in kinds) or "none was dropped"
        reason = f"{len(kept)} of {total} pictures are left, at least {settings.min_pictures} are needed: {why}"
        return Record(item, "dropped", reason, facts)
    return Record(item, facts=facts)


def measure(path: Path, person: np.ndarray, encoder: FaceEncoder) -> tuple[Measured, np.ndarray]:
    """A picture's largest face, and its unit-length embedding (width,). person: unit-length embedding (width,).

    Raises NoFaceError if there is none, ValueError if the picture cannot be read, RuntimeError if the person's
    embedding is of another face model.
    """
    face = largest_face(encoder, read_picture(path), str(path))
    embedding = unit(face.embedding.numpy())
    if embedding.shape != person.shape:
        raise RuntimeError(
            f"the person's embedding has {len(person)} numbers, this face model's {len(embedding)}: `faces.pack` was "
            "changed after collect"
        )
    assert face.landmarks is not None
    yaw, pitch = head_pose(face.landmarks)
    similarity = float(embedding @ person)
    return Measured(len(face.boxes), face_side(face), sharpness(face.crop), similarity, yaw, pitch), embedding


def object_to(picture: Measured, settings: FilterConfig) -> dict[str, str]:
    """Everything against a picture: a reason per kind, empty for a good one."""
    found = {}
    if settings.several_faces and picture.faces > 1:
        found["several faces"] = f"{picture.faces} faces"
    if picture.side < settings.min_face:
        found["small face"] = f"face of {picture.side:.0f} pixels, below {settings.min_face}"
    if picture.sharpness < settings.min_sharpness:
        found["blurred"] = f"sharpness {picture.sharpness:.0f}, below {settings.min_sharpness:g}"
    if picture.similarity < settings.min_similarity:
        found["unlike the person"] = f"similarity {picture.similarity:.2f}, below {settings.min_similarity:g}"
    if abs(picture.yaw) > settings.max_yaw:
        found["turned"] = f"turned by {picture.yaw:+.0f}°, more than {settings.max_yaw:g}"
    if abs(picture.pitch) > settings.max_pitch:
        found["nodding"] = f"nodding by {picture.pitch:+.0f}°, more than {settings.max_pitch:g}"
    return found


def _without_repetitions(
    passed: Sequence[tuple[dict[str, Any], np.ndarray]], threshold: float, dropped: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The pictures that are left, the most similar to the person first; near-duplicates of these go to `dropped`."""
    kept: list[dict[str, Any]] = []
    faces: list[np.ndarray] = []
    for entry, embedding in sorted(passed, key=lambda pair: -pair[0]["similarity"]):
        cosines = np.stack(faces) @ embedding if faces else np.zeros(1, np.float32)
        row = int(cosines.argmax())
        if cosines[row] > threshold:
            reason = f"near-duplicate of {kept[row]['file']} (cosine {cosines[row]:.3f})"
            dropped.append(entry | {"reason": reason, "kind": "near-duplicate"})
        else:
            kept.append(entry)
            faces.append(embedding)
    return kept


def _histograms(pictures: Sequence[Mapping[str, Any]], settings: FilterConfig) -> list[Histogram]:
    def values(name: str) -> list[float]:
        return [abs(float(entry[name])) for entry in pictures]

    return [
        Histogram("face, pixels of the shorter side", values("side"), settings.min_face, "least"),
        Histogram("sharpness, variance of the Laplacian", values("sharpness"), settings.min_sharpness, "least"),
        Histogram(
            "cosine with the person",
            [float(entry["similarity"]) for entry in pictures],
            settings.min_similarity,
            "least",
        ),
        Histogram("yaw, degrees to either side", values("yaw"), settings.max_yaw, "most"),
        Histogram("pitch, degrees up or down", values("pitch"), settings.max_pitch, "most"),
        Histogram("faces in the picture", values("faces"), 1 if settings.several_faces else None, "most"),
    ]
