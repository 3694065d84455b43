"""Who is evaluated: a folder for each person.

    <people>/<person>/references/*.png    what methods are given, in the files' order
    <people>/<person>/others/*.png        images of the person that no method sees: only measured with

Without these two folders, the first images of <people>/<person> are the references, and the rest the others.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from difflora_core.command_line import progress
from difflora_core.images import KINDS, is_image, printable, read_image, visible

from .settings import EvaluationSettings

REFERENCES, OTHERS = "references", "others"


@dataclass(frozen=True)
class EvaluatedPerson:
    """One person's images."""

    name: str
    """The folder's."""
    references: tuple[Path, ...]
    """Given to the methods."""
    others: tuple[Path, ...]
    """Kept from them."""
    passed_over: tuple[str, ...] = ()
    """Names of files beside them that are not taken for images."""


def read_people(settings: EvaluationSettings) -> list[EvaluatedPerson]:
    """List the people with their images, which are not opened.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is nobody, or somebody has no reference, or a folder of other images alone, or a name with
            control characters or undecodable bytes, or a link leads nowhere.
    """
    folder = settings.people
    assert folder is not None  # the settings name a folder, or a dataset
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; `people` names a folder with one for each person")
    places = [path for path in visible(folder) if path.is_dir()]
    if not places:
        raise ValueError(f"{folder} holds no folder of a person")
    return [_read_person(place, settings.references) for place in places[: settings.max_people]]


def _read_person(folder: Path, count: int) -> EvaluatedPerson:
    if printable(folder.name) != folder.name:  # records and reports are in UTF-8
        raise ValueError(f"{printable(str(folder))}: the person's name has characters that can't be shown: rename it")
    visible(folder)  # refuses links in place of the two folders, too
    sorted_out = (folder / REFERENCES).is_dir()
    if not sorted_out and (folder / OTHERS).is_dir():  # whose images would be passed over
        raise ValueError(f"{folder} has a folder {OTHERS}, but no folder {REFERENCES}: expected both, or neither")
    references = _images(folder / REFERENCES) if sorted_out else _images(folder)
    if not references:
        where = folder / REFERENCES if sorted_out else folder
        raise ValueError(f"{where} holds no image of the person: expected {', '.join(KINDS)}")
    if sorted_out:
        passed_over = (*_passed_over(folder / REFERENCES), *_passed_over(folder / OTHERS))
        return EvaluatedPerson(folder.name, references, _images(folder / OTHERS), passed_over)
    return EvaluatedPerson(folder.name, references[:count], references[count:], _passed_over(folder))


def _images(folder: Path) -> tuple[Path, ...]:
    return tuple(path for path in visible(folder) if is_image(path)) if folder.is_dir() else ()


def _passed_over(folder: Path) -> tuple[str, ...]:
    """Names of visible files that are no images and no captions, such as .heic."""
    files = (path for path in (visible(folder) if folder.is_dir() else ()) if path.is_file())
    return tuple(path.name for path in files if not is_image(path) and path.suffix.lower() != ".txt")


def unreadable_images(people: Iterable[EvaluatedPerson]) -> Iterator[str]:
    """Read all images of people; say of each that can't be read what is wrong with it."""
    files = [path for person in people for path in (*person.references, *person.others)]
    for path in progress(files, "reading", "image"):
        try:
            read_image(path)
        except ValueError as error:
            yield str(error)


def seen_references(person: EvaluatedPerson, count: int | None) -> Sequence[Path]:
    """Return the references that a method sees.

    Raises:
        ValueError: The person has not so many.
    """
    if count is not None and len(person.references) < count:
        raise ValueError(f"{person.name} has {len(person.references)} reference images, the method needs {count}")
    return person.references[:count]
