"""What MIF is trained on: the frozen encoders' embeddings of people's images, read from a cache.

    <folder>/ann.safetensors     face (images, face width), image (images, image width)
                                 metadata: people, their counts of images, the encoders' names, the images' files,
                                 hashes of what they were made from

A person may have any number of images. A file holds one person (`python -m training embed` writes such files: they can
be made one by one, and a killed run loses only the person in progress) or several, one after another. The miniature's
files with an image axis, (people, images, width) and a tensor `person`, are read as well.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from difflora_core.config import EncoderNames
from difflora_core.fields import read_fields, read_json, shorten
from difflora_core.files import read_tensors, write_tensors
from training.lora_dataset.fingerprints import hash_tensor, hash_value
from training.store.shard import Person

from .conditions import Conditions

HOW_TO_EMBED = "run `python -m training embed` with the settings file of train-difflora or train-teacher-free"
MAX_IMAGES_PER_PERSON = 64  # embeddings are padded to the most, so that one person with thousands would fill the memory
MAX_NAMES_IN_ERROR = 5


@dataclass(frozen=True)
class ImageEmbeddings:
    """The embeddings of one person's images."""

    face: Tensor
    """(images, face width), as the encoder gives them, float32."""
    image: Tensor
    """(images, image width), as the encoder gives them, float32."""
    files: tuple[str, ...] = ()
    """Of the images, in the same order; empty if they were not recorded."""
    made_from: str = ""
    """Hash of the images' and encoders' contents; empty if it was not recorded."""

    def digest(self) -> str:
        """Hash what the embeddings were made from; their values, whose last bits depend on the device, only if need be.

        Which of the images are meant counts as well.
        """
        known = [self.made_from] if self.made_from else [hash_tensor(self.face), hash_tensor(self.image)]
        return hash_value([*known, len(self.face), list(self.files)])


@dataclass(frozen=True)
class EmbeddingCache:
    """Embeddings of many people."""

    where: str
    """Files and folders that were read."""
    people: Mapping[str, ImageEmbeddings]
    """By name."""
    encoders: EncoderNames | None
    """Whose embeddings they are; None if the files don't say."""

    @classmethod
    def open(cls, *places: str | Path) -> "EmbeddingCache":
        """Read folders and single files.

        Raises:
            FileNotFoundError: There is nothing.
            ValueError: A file is something else; values are not finite; widths or encoders differ between files; a
                person is there twice.
        """
        where = ", ".join(map(str, places))
        people: dict[str, ImageEmbeddings] = {}
        known: tuple[Path, tuple[int, int], EncoderNames | None] | None = None
        for path in embedding_files(places):
            own, encoders = _read(path)
            for name, embeddings in own:
                if name in people:
                    raise ValueError(f"{path} holds {name}, who is in another file of {where} too: delete one.")
                kind = (embeddings.face.shape[1], embeddings.image.shape[1]), encoders
                if known is not None and known[1:] != kind:
                    raise ValueError(
                        f"{path} holds embeddings of widths {kind[0]} by {_names(kind[1])}, {known[0]} of {known[1]} "
                        f"by {_names(known[2])}: they can't be mixed. Delete the old ones and {HOW_TO_EMBED} again."
                    )
                known = known or (path, *kind)
                people[name] = embeddings
        return cls(where, people, known[2] if known else None)

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of a face embedding and of an image embedding."""
        first = next(iter(self.people.values()))
        return first.face.shape[1], first.image.shape[1]

    def check(self, encoders: EncoderNames, widths: tuple[int, int] | None = None) -> None:
        """Check that the embeddings are of these encoders. Files that don't name their encoders are trusted.

        Args:
            encoders: Of the network.
            widths: Of face and image embeddings, if they are known.

        Raises:
            ValueError: They are of others, or of other widths.
        """
        if self.encoders not in (None, encoders):
            raise ValueError(
                f"{self.where} holds embeddings by {_names(self.encoders)}, expected {_names(encoders)}: embeddings "
                "of another encoder mean nothing to the network. Name these encoders, or embed the images again."
            )
        if widths is not None and self.widths != widths:
            raise ValueError(
                f"{self.where} holds embeddings of widths {self.widths} (face, image), expected {widths}: correct "
                "`mif`, or embed the images with the encoder that it is meant for."
            )

    def without(self, files: Mapping[str, Collection[str]]) -> "EmbeddingCache":
        """Return the embeddings without some people's images, as references of which a loss is measured on these.

        Args:
            files: Of the images, by person. Of somebody who has no others, or whose files were not recorded, all stay.
        """
        people = dict(self.people)
        for name in files.keys() & people.keys():
            own = people[name]
            rows = [row for row, file in enumerate(own.files) if file not in files[name]]
            if rows:
                files_left = tuple(own.files[row] for row in rows)
                people[name] = replace(own, face=own.face[rows], image=own.image[rows], files=files_left)
        return replace(self, people=people)

    def digest(self, people: Sequence[Person]) -> str:
        """Hash what people's embeddings are of: a run is not resumed with those of other images or encoders."""
        return hash_value([self.people[str(person)].digest() for person in people])

    def of(self, people: Sequence[Person], allow_missing: bool | None = None) -> tuple[Conditions, list[int]]:
        """Return the embeddings of people, padded to the most images, and which rows of `people` they belong to.

        Of a person with more than 64 images 64 are taken, evenly spread.

        Args:
            people: Whose embeddings.
            allow_missing: Leave out people who have none, in place of an error; None where no setting offers it.

        Raises:
            ValueError: Some have none, unless `allow_missing`; or none of them has any.
        """
        rows = [row for row, person in enumerate(people) if str(person) in self.people]
        missing = [str(person) for person in people if str(person) not in self.people]
        if missing and (not rows or not allow_missing):
            named = ", ".join(missing[:MAX_NAMES_IN_ERROR]) + (", …" if len(missing) > MAX_NAMES_IN_ERROR else "")
            offer = ", or set embeddings.allow_missing to leave them out" if rows and allow_missing is not None else ""
            raise ValueError(
                f"{len(missing)} of {len(people)} people have no embeddings in {self.where}: {named}. "
                f"{HOW_TO_EMBED.capitalize()}{offer}."
            )
        own = [self.people[str(people[row])] for row in rows]
        face, image = (
            pad_sequence([_thin_out(getattr(one, kind)) for one in own], batch_first=True) for kind in ("face", "image")
        )
        counts = torch.tensor([min(MAX_IMAGES_PER_PERSON, len(one.face)) for one in own])
        return Conditions(face, image, counts), rows


def embedding_files(places: Sequence[str | Path]) -> Iterator[Path]:
    """List the files of embeddings in folders, and single files.

    Raises:
        FileNotFoundError: A place has none.
    """
    for place in map(Path, places):
        found = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
        if not found:
            raise FileNotFoundError(f"{place} holds no embeddings: {HOW_TO_EMBED} first.")
        yield from found


def write_embeddings(path: Path, people: Mapping[str, ImageEmbeddings], encoders: EncoderNames) -> None:
    """Write some people's embeddings into one file, atomically.

    Raises:
        ValueError: Values are not finite, or the two encoders saw different numbers of images.
    """
    for name, embeddings in people.items():
        _check(path, name, embeddings)
    tensors = {kind: torch.cat([getattr(p, kind).float() for p in people.values()]) for kind in ("face", "image")}
    metadata = {
        "people": json.dumps(list(people), ensure_ascii=False),
        "counts": json.dumps([len(embeddings.face) for embeddings in people.values()]),
        "files": json.dumps([list(embeddings.files) for embeddings in people.values()], ensure_ascii=False),
        "made_from": json.dumps([embeddings.made_from for embeddings in people.values()]),
        "encoders": json.dumps(asdict(encoders)),
    }
    write_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def _read(path: Path) -> tuple[list[tuple[str, ImageEmbeddings]], EncoderNames | None]:
    tensors, metadata = read_tensors(path)
    if not {"face", "image"} <= tensors.keys() or not ("counts" in metadata or "person" in tensors):
        raise ValueError(f"{path} holds no embeddings: found the tensors {', '.join(sorted(tensors)) or 'none'}.")
    axes = 3 if "person" in tensors else 2
    for kind in ("face", "image"):
        if not tensors[kind].is_floating_point() or tensors[kind].ndim != axes or 0 in tensors[kind].shape:
            expected = "(people, images, width)" if axes == 3 else "(images, width)"
            raise ValueError(
                f"{path}: {kind!r} is {tensors[kind].dtype} {tuple(tensors[kind].shape)}, expected floats {expected}."
            )
    people = _stacked(path, tensors) if "person" in tensors else _joined(path, tensors, metadata)
    for name, embeddings in people:
        _check(path, name, embeddings)
    if "encoders" not in metadata:
        return people, None
    try:
        names: EncoderNames = read_fields(EncoderNames, read_json(metadata["encoders"], "the entry"), "encoders")
    except ValueError as error:
        raise ValueError(f"{path} names its encoders in a way that cannot be read: {error}") from error
    return people, names


def _stacked(path: Path, tensors: Mapping[str, Tensor]) -> list[tuple[str, ImageEmbeddings]]:
    """Split the miniature's files, in which all people have equally many images."""
    numbers, face, image = tensors["person"], tensors["face"].float(), tensors["image"].float()
    if numbers.ndim != 1 or numbers.is_floating_point() or not len(numbers) == len(face) == len(image):
        raise ValueError(
            f"{path}: 'person' is {numbers.dtype} {tuple(numbers.shape)}, expected {len(face)} integers, as many as "
            f"people with face embeddings, and {len(image)} as people with image embeddings."
        )
    pairs = zip(numbers.tolist(), face, image, strict=True)
    return [(str(number), ImageEmbeddings(*embeddings)) for number, *embeddings in pairs]


def _joined(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> list[tuple[str, ImageEmbeddings]]:
    """Split people, each with images of their own number, that follow one another."""
    face, image = tensors["face"].float(), tensors["image"].float()
    names, counts = (_list(path, metadata, key) for key in ("people", "counts"))
    files = _list(path, metadata, "files") if "files" in metadata else [[] for _ in names]
    made_from = _list(path, metadata, "made_from") if "made_from" in metadata else ["" for _ in names]
    right = all(type(count) is int and count > 0 for count in counts) and sum(counts) == len(face) == len(image)
    if not right or not len(names) == len(counts) == len(files) == len(made_from):
        raise ValueError(
            f"{path} holds {len(face)} face and {len(image)} image embeddings of {len(names)} people, expected as many "
            f"as its header counts: {shorten(counts)}, for {len(files)} lists of files "
            f"and {len(made_from)} hashes of what they were made from."
        )
    if not all(isinstance(own, list) and all(isinstance(file, str) for file in own) for own in files):
        raise ValueError(f"{path}: 'files' is {shorten(files)}, expected a list of names for each person.")
    parts = zip(names, face.split(counts), image.split(counts), files, made_from, strict=True)
    return [(str(name), ImageEmbeddings(f, i, tuple(own), str(made))) for name, f, i, own, made in parts]


def _list(path: Path, metadata: Mapping[str, str], key: str) -> list[Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the entry {key!r} of its header is {shorten(metadata.get(key))}: {error}") from error
    if not isinstance(value, list):
        raise ValueError(f"{path}: the entry {key!r} of its header is {shorten(value)}, expected a list.")
    return value


def _check(path: Path, name: str, embeddings: ImageEmbeddings) -> None:
    counts = len(embeddings.face), len(embeddings.image)
    if counts[0] != counts[1] or not counts[0]:
        raise ValueError(
            f"{path}: {name} has {counts[0]} face and {counts[1]} image embeddings, expected one per image."
        )
    for kind in ("face", "image"):
        # In float32, as they are written: float64 has numbers that are infinite there
        if not (finite := getattr(embeddings, kind).float().isfinite().all(1)).all():
            raise ValueError(
                f"{path}: the {kind} embedding of {name}'s image {int((~finite).nonzero()[0]) + 1} holds NaN or "
                "infinite values: delete the file and embed this person again."
            )


def _thin_out(embeddings: Tensor) -> Tensor:
    count, most = len(embeddings), MAX_IMAGES_PER_PERSON
    return embeddings if count <= most else embeddings[torch.arange(most) * count // most]


def _names(encoders: EncoderNames | None) -> str:
    return "encoders that are not named" if encoders is None else f"{encoders.face} and {encoders.image}"
