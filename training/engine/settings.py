"""Settings: one YAML file per set-up, read into nested frozen dataclasses.

Paths in a file are relative to the file's own folder. A key that no dataclass has is an error, not a comment.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-3 as a string: it wants 1.0e-3


def read_settings(kind: type[T], path: str | Path) -> T:
    """Read a YAML file into the dataclass `kind`.

    Fields may be dataclasses, Literals, paths, numbers, strings, booleans, `X | None`, `tuple[X, ...]`, `list[X]` and
    `dict[str, X]`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, a key is unknown, a value has another type than the field, or the dataclass itself
            refuses it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected settings by name")
    return _read(kind, values, path.parent, str(path))


def _read(kind: type[T], values: Mapping[str, Any], folder: Path, where: str) -> T:
    hints = get_type_hints(kind)
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(map(str, values.keys() - known)):
        raise ValueError(f"{where}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    try:
        return kind(**{key: _value(hints[key], value, folder, f"{where}: {key}") for key, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _value(kind: Any, value: Any, folder: Path, where: str) -> Any:
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) and NoneType in options:
        if value is None:
            return None
        kind = next(option for option in options if option is not NoneType)
        origin, options = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}, expected settings by name")
        return _read(kind, value, folder, where)  # type: ignore[arg-type]
    if origin is Literal:
        if value is False and "no" in options:  # YAML 1.1 reads a bare `no` as false
            return "no"
        if value not in options:
            raise ValueError(f"{where} is {value!r}, expected one of {', '.join(map(str, options))}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}, expected a list")
        return origin(_value(options[0], entry, folder, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}, expected settings by name")
        return {str(key): _value(options[1], entry, folder, f"{where}: {key}") for key, entry in value.items()}
    if kind is Path:
        if not isinstance(value, str):
            raise ValueError(f"{where} is {value!r}, expected a path")
        return (folder / Path(value).expanduser()).resolve()
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str) and EXPONENT.fullmatch(value):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} is {value!r}, expected {kind.__name__}")
    return value
