"""Settings: one YAML file per set-up, read into nested frozen dataclasses by pydantic.

Unknown keys, other types than the field's, and keys that stand twice are errors. Relative paths of the file are
relative to its own folder, if the field is a `SettingsPath`.
"""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, create_model
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scanner import Scanner

from difflora_core.fields import read_utf8

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""pydantic hands it on to the dataclasses inside."""
MAX_BRACKETS = 50
"""Inside one another in a settings file; the scanner's time grows with their square."""


class ShallowScanner(Scanner):
    """Refuses a file with brackets too deep inside one another when it gets there."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803  # the base class's names
        """See the base class."""
        if len(self.flow_context) == MAX_BRACKETS:
            line = self.reader.line + 1
            raise YAMLError(f"more than {MAX_BRACKETS} brackets stand inside one another in line {line}")
        super().fetch_flow_collection_start(TokenClass, to_push)


def absolute_path(path: Path, folder: Path) -> Path:
    """Return a path of a settings file, of which relative ones are relative to the file's folder.

    Raises:
        ValueError: It is none: it begins with ~ and the name of no user, leads round in links, or has a null character.
    """
    try:
        return (folder / path.expanduser()).resolve()
    except RuntimeError as error:
        raise ValueError(f"found {str(path)!r}, expected a path: {error}") from error


def _relative_to_file(path: Path, info: ValidationInfo) -> Path:
    folder: Path = info.context  # type: ignore[assignment]  # `read_settings` passes it
    return absolute_path(path, folder)


def _not_blank(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():  # as a path it would be the file's own folder
        raise ValueError(f"found {value!r}, expected something, or no such line")
    return value


SettingsPath = Annotated[Path, BeforeValidator(_not_blank), AfterValidator(_relative_to_file)]
"""A path in a settings file; relative ones are relative to the file's folder."""
Words = Annotated[str, AfterValidator(_not_blank)]
"""Text that is not empty."""


def read_settings(kind: type[T], path: str | Path) -> T:
    """Read a YAML 1.2 file into a dataclass.

    Args:
        kind: The dataclass. Its fields may be dataclasses and whatever else pydantic validates.
        path: Of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, a key is unknown or stands twice, a value has another type than the field, or the
            dataclass itself refuses it.
    """
    path = Path(path)
    return _validated(kind, read_values(path), path)


def read_section(kind: type[T], path: str | Path, section: str) -> T:
    """Read one section of a YAML file, whichever command the file is for; the others are not read.

    Args:
        kind: The section's dataclass.
        path: Of the file.
        section: Its key.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, has no such section, or see `read_settings`.
    """
    path = Path(path)
    values = read_values(path)
    if section not in values:
        raise ValueError(f"{path} has no section {section!r}; there are {', '.join(map(str, values)) or 'none'}")
    return _validated(kind, values[section], path, section)


def read_values(path: Path) -> dict[Any, Any]:
    """Read a YAML file that holds settings by name, whatever they are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is in another encoding, no YAML, has a key twice, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = ShallowScanner
    text = read_utf8(path, str(path))
    try:
        values = yaml.load(text)
    except DuplicateKeyError as error:
        raise ValueError(f"{path}: {_duplicate_key(error, text)}") from error
    except (YAMLError, ValueError, RecursionError) as error:  # ValueErrors: a date or number that is none
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected settings by name")
    return values


def _validated(kind: type[T], values: object, path: Path, *section: str) -> T:
    """Make the dataclass of what a file, or a section of it, holds."""
    try:
        # As JSON, since a strict validation of Python's own objects takes no list for a tuple and no text for a path
        document = json.dumps({"settings": values}, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a key that is a date or a list; an alias in itself
        raise ValueError(f"{path} can't be read as settings: {error}") from error
    try:
        model = _model(kind)  # type: ignore[arg-type]  # mypy doubts that classes are hashable
        settings: T = model.model_validate_json(document, context=path.parent).settings
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_error(kind, error, section)}") from error
    return settings


@cache
def _model(kind: Any) -> Any:
    """Make pydantic's model of a dataclass, which takes longer than reading a file."""
    return create_model("Settings", __config__=STRICT, settings=(kind, ...))


def _first_error(kind: type, error: ValidationError, section: Sequence[str] = ()) -> str:
    """The first thing that is wrong, in one line: where it stands, what was found, what was expected."""
    first = error.errors(include_url=False)[0]
    location, found = first["loc"][1:], first["input"]
    where = ".".join(map(str, (*section, *location)))
    if first["type"] == "unexpected_keyword_argument":
        known = ", ".join(sorted(_field_names(kind, location[:-1])))
        return f"{where}: unknown setting {location[-1]!r}; there are {known}"
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}" if where else str(first["ctx"]["error"])
    return f"{where}: {first['msg']}, found {found!r}"


def _duplicate_key(error: DuplicateKeyError, text: str) -> str:
    """Both lines in which a key stands; only the second of a key that is not written as it is read (`~`, `0x10`)."""
    key = error.problem.split('"')[1]
    mapping, second = error.context_mark.line, error.problem_mark.line
    lines = enumerate(text.splitlines()[: second + 1])
    first = next((number for number, line in lines if number >= mapping and key in line), None)
    place = "twice, the second time" if first is None else f"in line {first + 1} and again"
    return f"the key {key!r} stands {place} in line {second + 1}: keep one of them"


def _field_names(kind: Any, location: Sequence[str | int]) -> set[str]:
    """Names of the fields of the dataclass at a place of `kind`."""
    for name in location:
        hint = get_type_hints(kind)[str(name)] if is_dataclass(kind) else kind
        kind = next((option for option in (hint, *get_args(hint)) if is_dataclass(option)), hint)
    return {entry.name for entry in fields(kind)} if is_dataclass(kind) else set()
