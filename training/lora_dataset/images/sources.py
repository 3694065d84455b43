"""Where images come from: folders, and Hugging Face `datasets` on this disk. Nothing is downloaded."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from difflora_core.images import KINDS, describe_passed_over, is_image, printable, read_image
from training.lora_dataset.config import CollectConfig
from training.lora_dataset.fingerprints import hash_files, hash_value
from training.lora_dataset.images.caption_file import read_caption
from training.lora_dataset.item_names import item_name


class Source(Protocol):
    """One image that has not been read yet."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def read(self) -> Image.Image:
        """Read the image in RGB.

        Raises:
            ValueError: It cannot be read; the message names it and the reason.
        """

    def caption(self) -> str:
        """Return what the source says about the image, "" for nothing.

        Raises:
            ValueError: It cannot be read; the message names it and the reason.
        """

    def content_hash(self) -> str:
        """Hash what `read` and `caption` read."""


@dataclass(frozen=True)
class Entry:
    """A candidate person."""

    item: str
    """The item's name."""
    origin: str
    """What it is called at the source."""
    sources: tuple[Source, ...]
    """Its images in order."""
    passed_over: tuple[str, ...] = ()
    """Names of files beside them that are not taken for images; where each image is a person, the first has all."""


@dataclass(frozen=True)
class FileSource:
    """An image file; its caption is in photo.txt or photo.jpg.txt beside photo.jpg."""

    path: Path
    """Of the image."""
    folder: Path
    """The folder that is collected; links that lead out of it are refused."""

    @property
    def name(self) -> str:
        """Return the path."""
        return printable(str(self.path))

    def read(self) -> Image.Image:
        """Read the image in RGB."""
        self._check_link(self.path)
        return read_image(self.path)

    def caption(self) -> str:
        """Read the caption beside the image, "" for none."""
        if (path := self._caption_path()) is None:
            return ""
        self._check_link(path)
        return read_caption(path)

    def content_hash(self) -> str:
        """Hash the file and its caption."""
        caption = self._caption_path()
        return hash_files(path for path in (self.path, caption) if path is not None and path.is_file())

    def _caption_path(self) -> Path | None:
        paths = (self.path.with_suffix(".txt"), self.path.with_name(f"{self.path.name}.txt"))
        return next((path for path in paths if path.is_file()), None)

    def _check_link(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(
                f"{printable(str(path))} is reached by a link out of {printable(str(self.folder))}: copy what it leads "
                "to into the folder"
            )


@dataclass(frozen=True)
class RowSource:
    """A row of a data set whose image column is not decoded by `datasets`."""

    rows: Any
    """The data set, with this column only."""
    number: int
    """Of the row."""
    column: str
    """The image column."""

    @property
    def name(self) -> str:
        """Return the row's number."""
        return f"row {self.number}"

    def read(self) -> Image.Image:
        """Decode the image in RGB."""
        value = self._value()
        if isinstance(value, bytes):
            return read_image(value, self.name)
        if isinstance(value, str):
            return read_image(value, f"{self.name} ({value})")
        raise ValueError(f"{self.name} has no image in column {self.column!r}")

    def caption(self) -> str:
        """Return "": captions of data sets are not read."""
        return ""

    def content_hash(self) -> str:
        """Hash the image's bytes."""
        value = self._value()
        if isinstance(value, str):
            return hash_files([Path(value)])
        return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else hash_value(repr(value))

    def _value(self) -> Any:
        """Return the image's content, its path, or whatever else the column holds."""
        value = self.rows[self.number][self.column]
        if isinstance(value, Mapping):  # an undecoded `datasets.Image`
            return value.get("bytes") or value.get("path")
        return value


def entries(config: CollectConfig) -> list[Entry]:
    """Return the candidate people, sorted by what they are called at the source; the first `max_people` of them.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: Nothing in it can be a person's image.
        ImportError: `datasets` is needed and missing.
    """
    if not config.path:
        raise ValueError("collect.path is empty: name the folder or the data set with the images")
    find = {"images": _images, "people": _people, "datasets": _rows}[config.source]
    found = find(config)
    return found[: config.max_people] if config.max_people > 0 else found


def _folder(config: CollectConfig) -> Path:
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"collect.path: {folder} {problem}, expected a folder of images")
    return folder


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """List image files below a folder, and what lies beside them and is no caption, both sorted, no hidden ones."""
    images: list[Path] = []
    others: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
        found = [path for path in paths if is_image(path)]
        captions = {path.with_suffix(".txt") for path in found} | {path.with_name(f"{path.name}.txt") for path in found}
        images += found
        others += [path.relative_to(folder).as_posix() for path in paths if not is_image(path) and path not in captions]
    return images, others


def _images(config: CollectConfig) -> list[Entry]:
    folder = _folder(config)
    images, others = _files(folder)
    if not images:
        raise ValueError(f"{folder} holds no images ({_hint(others)})")
    return [
        Entry(
            item_name(path.relative_to(folder).as_posix(), path.stem),
            printable(str(path)),
            (FileSource(path, folder),),
            tuple(others) if path == images[0] else (),
        )
        for path in images
    ]


def _hint(others: Sequence[str]) -> str:
    return describe_passed_over(others) if others else ", ".join(KINDS)


def _people(config: CollectConfig) -> list[Entry]:
    folder = _folder(config)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        loose = len(_files(folder)[0])
        hint = f"; it holds {loose} images: if each is a person, set collect.source: images" if loose else ""
        raise ValueError(f"{folder} holds no folders, expected one per person{hint}")
    found = []
    for name in names:
        images, others = _files(folder / name)
        sources = tuple(FileSource(path, folder) for path in images)
        found.append(Entry(item_name(name), printable(name), sources, tuple(others)))
    if not any(entry.sources for entry in found):
        others = [f"{entry.origin}/{name}" for entry in found for name in entry.passed_over]
        raise ValueError(f"{folder} holds {len(found)} folders without any image ({_hint(others)})")
    return found


def _rows(config: CollectConfig) -> list[Entry]:
    data = _open(config.path)
    for column in filter(None, (config.image_column, config.person_column)):
        if column not in data.column_names:
            raise ValueError(f"{config.path} has no column {column!r}, only {', '.join(data.column_names)}")
    if len(data) == 0:
        raise ValueError(f"{config.path} holds no rows")
    people: dict[str, list[int]] = {}
    if config.person_column:
        for number, label in enumerate(_labels(data, config.person_column)):
            # A row without a label is a person of its own. No label of a person begins with a line break
            people.setdefault(f"\nrow {number}" if label is None else label, []).append(number)
    else:
        people = {f"row-{number:08d}": [number] for number in range(len(data))}
    images = _undecoded(data, config.image_column)
    # In the order of first rows, not of labels: `max_people` takes the first ones
    return [
        Entry(
            item_name(label),
            printable(label.strip()),
            tuple(RowSource(images, n, config.image_column) for n in numbers),
        )
        for label, numbers in people.items()
    ]


def _labels(data: Any, column: str) -> Iterator[str | None]:
    """Yield each row's label as text; None where there is none."""
    feature = data.features[column]
    for value in data.select_columns([column])[:][column]:
        if value is None or value == "":
            yield None
        elif hasattr(feature, "int2str"):
            yield None if value < 0 else str(feature.int2str(value))  # −1: `datasets`' own mark for "no label"
        else:
            yield str(value).lstrip("\n") or None


def _undecoded(data: Any, column: str) -> Any:
    """Return the image column as it is stored: our reader says more than a decoder's exception, and limits the size."""
    import datasets

    data = data.select_columns([column])
    if isinstance(data.features[column], datasets.Image):
        data = data.cast_column(column, datasets.Image(decode=False))
    return data


@contextmanager
def _offline(settings: Any) -> Iterator[None]:
    """While open, `datasets` uses no network. Its environment variable works only before its first import."""
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before


def _open(path: str) -> Any:
    """Open all splits of a data set as one table: a folder of `save_to_disk` or of files, or a name in the cache."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{error}. collect.source: datasets needs it: python -m pip install datasets") from error
    folder = Path(path).expanduser()
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            data = datasets.load_from_disk(str(folder))
        else:
            with _offline(datasets.config):
                data = datasets.load_dataset(str(folder) if folder.exists() else path)
    except Exception as error:  # each of its readers raises its own
        raise ValueError(
            f"`datasets` cannot open {path} without the network: {printable(str(error))}. Expected a folder written by "
            "save_to_disk, a folder of data files, or a name in the local cache"
        ) from error
    if isinstance(data, dict):
        data = datasets.concatenate_datasets([data[split] for split in sorted(data)])
    return data
