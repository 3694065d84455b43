"""Where images come from: folders, and Hugging Face `datasets` on this disk. Nothing is downloaded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from difflora_core.images import KINDS, describe_passed_over, is_image, printable, read_image, visible
from training.lora_dataset.config import CollectConfig
from training.lora_dataset.fingerprints import hash_files
from training.lora_dataset.images.caption_file import read_caption
from training.lora_dataset.images.dataset_rows import row_entries
from training.lora_dataset.images.entry import Entry
from training.lora_dataset.item_names import item_name


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


def entries(config: CollectConfig) -> list[Entry]:
    """Return the candidate people, sorted by what they are called at the source; the first `max_people` of them.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: Nothing in it can be a person's image, or two names are one in two forms of Unicode.
        ImportError: `datasets` is needed and missing.
    """
    if not config.path:
        raise ValueError("collect.path is empty: name the folder or the data set with the images")
    find = {"images": _images, "people": _people, "datasets": row_entries}[config.source]
    found = find(config)
    by_item: dict[str, Entry] = {}
    for entry in found:
        if (other := by_item.setdefault(entry.item, entry)) is not entry:
            raise ValueError(
                f"collect.path: {other.origin} and {entry.origin} are one name in two forms of Unicode, which "
                "differ in how accents are written: rename one of them, or put all images of a person into one folder"
            )
    return found[: config.max_people] if config.max_people > 0 else found


def _folder(config: CollectConfig) -> Path:
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"collect.path: {folder} {problem}, expected a folder of images")
    return folder


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """List image files below a folder, and names of what lies beside them and is no caption, sorted, no hidden ones.

    Links to folders, which are not followed, are named, too.
    """
    images: list[Path] = []
    others: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
        found = [path for path in paths if is_image(path)]
        captions = {path.with_suffix(".txt") for path in found} | {path.with_name(f"{path.name}.txt") for path in found}
        images += found
        beside = [path for path in paths if not is_image(path) and path not in captions]
        beside += [path for name in folders if (path := Path(parent, name)).is_symlink()]
        others += [printable(path.relative_to(folder).as_posix()) for path in beside]
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
    inside = visible(folder)
    names = [path.name for path in inside if path.is_dir()]
    loose_files = [printable(path.name) for path in inside if not path.is_dir()]
    if not names:
        loose = len(_files(folder)[0])
        hint = f"; it holds {loose} images: if each is a person, set collect.source: images" if loose else ""
        raise ValueError(f"{folder} holds no folders, expected one per person{hint}")
    found = []
    for name in names:
        images, others = _files(folder / name)
        sources = tuple(FileSource(path, folder) for path in images)
        if name == names[0]:  # said once
            others += loose_files
        found.append(Entry(item_name(name), printable(name), sources, tuple(others)))
    if not any(entry.sources for entry in found):
        others = [f"{entry.origin}/{name}" for entry in found for name in entry.passed_over]
        raise ValueError(f"{folder} holds {len(found)} folders without any image ({_hint(others)})")
    return found
