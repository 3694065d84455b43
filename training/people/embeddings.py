"""What MIF is trained on: the frozen encoders' embeddings of people's pictures, read from a cache.

    <folder>/ann.safetensors     face (rows, face width), image (rows, image width); rows are pictures
                                 metadata: people, their counts of rows, the encoders' names, the pictures' files

A person may have any number of pictures. A file holds one person (`python -m training embed` writes such files: they
can be made one by one, and a killed run loses the person in hand) or several, one after another. The miniature's
files with a picture axis, (people, pictures, width) and a tensor `person`, are read as well.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from difflora_core.files import read_tensors, write_tensors
from difflora_core.model import EncoderNames
from training.store.lora_store import Person

from .conditions import Conditions

HOW = "run `python -m training embed` with this configuration"
MAX_IMAGES_PER_PERSON = (
    64  # pictures of a person: all people's are padded to the most, so one with thousands would fill the memory
)
NAMED = 5  # people that an error names before it only counts


@dataclass(frozen=True)
class Pictures:
    """One person's embeddings. face: (pictures, face width), image: (pictures, image width), raw, float32. files: of
    the pictures, in the same order; empty if nobody wrote them down.
    """

    face: Tensor
    image: Tensor
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmbeddingCache:
    """Everybody's embeddings by name. where: files and folders that were read. encoders: whose they are, None if the
    files don't say.
    """

    where: str
    people: Mapping[str, Pictures]
    encoders: EncoderNames | None

    @classmethod
    def open(cls, *places: str | Path) -> "EmbeddingCache":
        """Read folders and single files.

        Raises:
            FileNotFoundError: there is nothing.
            ValueError: a file is something else; numbers are not finite; widths or encoders differ between files; a
                person is there twice.
        """
        where = ", ".join(map(str, places))
        paths: list[Path] = []
        for place in map(Path, places):
            found = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
            if not found:
                raise FileNotFoundError(f"{place} holds no embeddings: {HOW} first.")
            paths += found
        people: dict[str, Pictures] = {}
        known: tuple[Path, tuple[int, int], EncoderNames | None] | None = None
        for path in paths:
            own, encoders = _read(path)
            for name, pictures in own:
                if name in people:
                    raise ValueError(f"{path} holds {name}, who is in another file of {where} too: delete one.")
                kind = (pictures.face.shape[1], pictures.image.shape[1]), encoders
                if known is not None and known[1:] != kind:
                    raise ValueError(
                        f"{path} holds embeddings of widths {kind[0]} by {_names(kind[1])}, {known[0]} of {known[1]} "
                        f"by {_names(known[2])}: they can't be mixed. Delete the old ones and {HOW} again."
                    )
                known = known or (path, *kind)
                people[name] = pictures
        return cls(where, people, known[2] if known else None)

    @property
    def widths(self) -> tuple[int, int]:
        """Width of a face's embedding and of a picture's."""
        first = next(iter(self.people.values()))
        return first.face.shape[1], first.image.shape[1]

    def check(self, encoders: EncoderNames, widths: tuple[int, int] | None = None) -> None:
        """Raise ValueError unless these are embeddings by `encoders`, of these widths if they are given.

        Files that don't name their encoders are taken at their word.
        """
        if self.encoders not in (None, encoders):
            raise ValueError(
                f"{self.where} holds embeddings by {_names(self.encoders)}, expected {_names(encoders)}: embeddings "
                "of another encoder mean nothing to the network. Name these encoders, or embed the pictures again."
            )
        if widths is not None and self.widths != widths:
            raise ValueError(
                f"{self.where} holds embeddings of widths {self.widths} (face, image), expected {widths}: correct "
                "`mif`, or embed the pictures with the encoder that it is meant for."
            )

    def of(self, people: Sequence[Person], allow_missing: bool = False) -> tuple[Conditions, list[int]]:
        """Embeddings of these people, padded to the most pictures, and which rows of `people` they are of.

        Of somebody with more than 64 pictures 64 are taken, evenly spread.

        Raises:
            ValueError: some have none, unless allow_missing; or nobody has any.
        """
        rows = [row for row, person in enumerate(people) if str(person) in self.people]
        missing = [str(person) for person in people if str(person) not in self.people]
        if missing and (not rows or not allow_missing):
            named = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
            raise ValueError(
                f"{len(missing)} of {len(people)} people have no embeddings in {self.where}: {named}. "
                + HOW.capitalize()
                + (", or set embeddings.allow_missing to leave them out." if rows else ".")
            )
        own = [self.people[str(people[row])] for row in rows]
        face, image = (
            pad_sequence([_spread(getattr(one, kind)) for one in own], batch_first=True) for kind in ("face", "image")
        )
        return Conditions(face, image, torch.tensor([min(MAX_IMAGES_PER_PERSON, len(one.face)) for one in own])), rows


def write_embeddings(path: Path, people: Mapping[str, Pictures], encoders: EncoderNames) -> None:
    """Write some people's embeddings into one file; it is there whole or not at all.

    Raises:
        ValueError: numbers are not finite, or the two encoders saw different numbers of pictures.
    """
    for name, pictures in people.items():
        _check(path, name, pictures)
    tensors = {kind: torch.cat([getattr(p, kind).float() for p in people.values()]) for kind in ("face", "image")}
    metadata = {
        "people": json.dumps(list(people), ensure_ascii=False),
        "counts": json.dumps([len(pictures.face) for pictures in people.values()]),
        "files": json.dumps([list(pictures.files) for pictures in people.values()], ensure_ascii=False),
        "encoders": json.dumps(asdict(encoders)),
    }
    write_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def _read(path: Path) -> tuple[list[tuple[str, Pictures]], EncoderNames | None]:
    tensors, metadata = read_tensors(path)
    if not {"face", "image"} <= tensors.keys() or not ("counts" in metadata or "person" in tensors):
        raise ValueError(f"{path} holds no embeddings: found the tensors {', '.join(sorted(tensors)) or 'none'}.")
    people = list(_split(tensors, metadata))
    for name, pictures in people:
        _check(path, name, pictures)
    return people, EncoderNames(**json.loads(metadata["encoders"])) if "encoders" in metadata else None


def _split(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[tuple[str, Pictures]]:
    face, image = tensors["face"].float(), tensors["image"].float()
    if "person" in tensors:
        for number, *embeddings in zip(tensors["person"].tolist(), face, image, strict=True):
            yield str(number), Pictures(*embeddings)
        return
    names, counts = json.loads(metadata["people"]), json.loads(metadata["counts"])
    files = json.loads(metadata.get("files", "[]")) or [()] * len(names)
    for name, own, faces, images in zip(names, files, face.split(counts), image.split(counts), strict=True):
        yield str(name), Pictures(faces, images, tuple(own))


def _check(path: Path, name: str, pictures: Pictures) -> None:
    counts = len(pictures.face), len(pictures.image)
    if counts[0] != counts[1] or not counts[0]:
        raise ValueError(
            f"{path}: {name} has {counts[0]} face and {counts[1]} image embeddings, expected one per picture."
        )
    for kind in ("face", "image"):
        if not (finite := getattr(pictures, kind).isfinite().all(1)).all():
            raise ValueError(
                f"{path}: the {kind} embedding of {name}'s picture {int((~finite).nonzero()[0]) + 1} holds NaN or "
                "infinite numbers: delete the file and embed this person again."
            )


def _spread(embeddings: Tensor) -> Tensor:
    count = len(embeddings)
    return (
        embeddings
        if count <= MAX_IMAGES_PER_PERSON
        else embeddings[torch.arange(MAX_IMAGES_PER_PERSON) * count // MAX_IMAGES_PER_PERSON]
    )


def _names(encoders: EncoderNames | None) -> str:
    return "encoders that are not named" if encoders is None else f"{encoders.face} and {encoders.image}"
