"""Images in Hugging Face `datasets` on this disk: one image or a list of images in a row."""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from difflora_core.images import printable, read_image
from training.lora_dataset.config import CollectConfig
from training.lora_dataset.fingerprints import hash_files, hash_value
from training.lora_dataset.images.entry import Entry
from training.lora_dataset.item_names import item_name

MAX_PATH = 4096
"""Characters of a path at most; a longer text is something else, base64 for example."""
MAX_SHOWN = 200
"""Characters of an address that an error shows."""


@dataclass(frozen=True)
class RowSource:
    """An image in a row of a data set whose image column is not decoded by `datasets`."""

    rows: Any
    """The data set, with this column only."""
    number: int
    """Of the row."""
    column: str
    """The image column."""
    position: int | None = None
    """Of the image, where the column holds a list of them."""

    @property
    def name(self) -> str:
        """Return the row's number, and the image's in its list, from 1."""
        return f"row {self.number}" + ("" if self.position is None else f", image {self.position + 1}")

    def read(self) -> Image.Image:
        """Decode the image in RGB."""
        value, place = self._value(), f"{self.name}, column {self.column!r}"
        if isinstance(value, bytes):
            return read_image(value, place)
        if isinstance(value, str) and "://" in value[:MAX_PATH]:
            raise ValueError(
                f"{place} names {printable(value[:MAX_SHOWN])}, in an archive or on another machine, expected an image "
                "on this disk: unpack the archive, or download the images, and set collect.path to their folder"
            )
        if isinstance(value, str) and len(value) <= MAX_PATH:
            return read_image(value, f"{place} ({value})")
        if value is None:
            raise ValueError(f"{self.name} has no image in column {self.column!r}")
        raise ValueError(
            f"{self.name} has {_describe(value)} in column {self.column!r}, expected an image of `datasets`, the bytes "
            "of an image file, or its path: cast the column to datasets.Image() first"
        )

    def caption(self) -> str:
        """Return "": captions of data sets are not read."""
        return ""

    def content_hash(self) -> str:
        """Hash the image's bytes."""
        value = self._value()
        if isinstance(value, str) and len(value) <= MAX_PATH:
            return hash_files([Path(value)])
        return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else hash_value(repr(value))

    def _value(self) -> Any:
        """Return the image's content, its path, or whatever else the column holds."""
        value = self.rows[self.number][self.column]
        if self.position is not None:
            value = value[self.position]
        if isinstance(value, Mapping):  # an undecoded `datasets.Image`
            return value.get("bytes") or value.get("path")
        return value


def row_entries(config: CollectConfig) -> list[Entry]:
    """Return the candidate people of a data set, each with its rows' images, in the order of their first rows.

    Raises:
        ValueError: It cannot be opened, holds no rows, or lacks a column.
        ImportError: `datasets` is missing.
    """
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
            person = f"\nrow {number}" if label is None else unicodedata.normalize("NFC", label)  # as `item_name` does
            people.setdefault(person, []).append(number)
    else:
        people = {f"row-{number:08d}": [number] for number in range(len(data))}
    images = _undecoded(data, config.image_column)
    lengths = _list_lengths(images, config.image_column)
    # In the order of first rows, not of labels: `max_people` takes the first ones
    return [
        Entry(
            item_name(label),
            printable(label.strip()),
            tuple(
                RowSource(images, number, config.image_column, position)
                for number in numbers
                for position in ([None] if lengths is None else range(lengths[number]))
            ),
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
    feature = data.features[column]
    if isinstance(feature, datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    if isinstance(getattr(feature, "feature", None), datasets.Image):
        return data.cast_column(column, type(feature)(datasets.Image(decode=False)))
    return data


def _list_lengths(data: Any, column: str) -> list[int] | None:
    """Count the images in each row of a column of lists, without reading them; None for any other column."""
    import datasets

    kind = getattr(data.features[column], "feature", None)
    of_text = isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string", "binary", "large_binary")
    if not (isinstance(kind, datasets.Image) or of_text):
        return None
    chunks = data.with_format("arrow")[:][column].chunks
    return [length or 0 for chunk in chunks for length in chunk.value_lengths().to_pylist()]


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return f"a text of {len(value):,} characters that begins with {printable(value[:16])!r}"
    if isinstance(value, list | Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"


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
